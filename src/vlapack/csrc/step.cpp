#include "step.hpp"

#include <algorithm>

#include "attention.hpp"
#include "buffer.hpp"
#include "plain_attention.hpp"
#include "rotary.hpp"
#include "team.hpp"

namespace vlapack {
namespace {

constexpr int64_t kSerialWork = 1 << 22;  // products below which one thread is enough
constexpr int64_t kPackedAlone = 4;       // tiles: with fewer, every thread packs all of them rather than wait for another

// What one stage leaves for the next, of all rows. They belong to the thread that calls, and stay for its next call.
struct Rooms {
  Buffer q, s, product, mixed, queries, streams[2], packed;
};

class Step {
 public:
  Step(Expert& expert, const StepCall& call, Rooms& rooms)
      : expert_(expert), call_(call), rows_(call.batch * call.tokens), bytes_(call.kind == Float::f32 ? 4 : 2) {
    int64_t inputs = 0, outputs = 0, packed = 0;
    for (const auto& layer : expert.layers)
      for (const StepProduct* one : {&layer->entry, &layer->mixing, &layer->gate_up, &layer->down}) {
        inputs = std::max(inputs, one->inputs), outputs = std::max(outputs, one->outputs);
        for (const StepWeight& weight : one->weights) packed = std::max(packed, Plan(job(*one, weight, 0)).workspace);
      }
    q_ = rooms.q.hold<int8_t>(rows_ * inputs);
    s_ = rooms.s.hold<float>(rows_);
    product_ = rooms.product.hold<char>(rows_ * outputs * bytes_);
    const int64_t wide = rows_ * expert.heads * expert.head_dim * bytes_;
    mixed_ = rooms.mixed.hold<char>(wide);
    queries_ = rooms.queries.hold<char>(wide);
    for (int i = 0; i < 2; ++i) streams_[i] = rooms.streams[i].hold<char>(rows_ * expert.width * bytes_);
    packed_ = rooms.packed.hold<char>(packed);
  }

  void run(Team& team) {
    const void* stream = call_.x;
    const void* update = nullptr;
    int64_t norms = 0;
    const auto enter = [&](const StepProduct* product, const float* weight) {
      void* moved = streams_[norms % 2];
      normalize(team, stream, update, norms++, weight, moved, product);
      if (update) stream = moved;
    };
    for (size_t i = 0; i < expert_.layers.size(); ++i) {
      const StepLayer& layer = *expert_.layers[i];
      enter(&layer.entry, layer.first_norm);
      multiply(team, layer.entry);
      turn(team, call_.past[i]);
      attend(team, call_.past[i]);
      round(team, layer.mixing, mixed_, nullptr, layer.mixing.inputs);
      multiply(team, layer.mixing);
      update = product_;
      enter(&layer.gate_up, layer.second_norm);
      multiply(team, layer.gate_up);
      round(team, layer.down, product_, product_ + layer.down.inputs * bytes_, layer.gate_up.outputs);
      multiply(team, layer.down);
    }
    enter(nullptr, expert_.last_norm);
  }

 private:
  // A weight's product, whose outputs begin at `column`.
  Linear job(const StepProduct& product, const StepWeight& weight, int64_t column) const {
    return {rows_,        product.inputs, weight.outputs, q_,           s_,
            weight.weight, weight.bits,   weight.scale,   weight.group, weight.bias,
            product_ + column * bytes_,   product.outputs, call_.kind,  call_.threads};
  }

  void share_rows(Team& team, const StepProduct& product, Rows all) {
    all.scale = product.scale;
    all.largest = static_cast<float>(product.largest);
    all.q = q_, all.s = s_;
    share_rows(team, product.steps.ready(), all);
  }

  void share_rows(Team& team, const Steps& steps, const Rows& all) {
    const int64_t height = rows_of_task(rows_, call_.threads);
    team.share((rows_ + height - 1) / height, [&](int64_t task) { activate_task(steps, all, height, task); });
  }

  Rows rows_of(const void* x, int64_t pitch, int64_t channels) const {
    Rows all = {};
    all.x = x, all.kind = call_.kind, all.pitch = pitch, all.rows = rows_, all.channels = channels;
    return all;
  }

  // The stream moved on by `update`, into `moved`; its norm rounded for `product`, or the call's result without one.
  void normalize(Team& team, const void* stream, const void* update, int64_t number, const float* weight, void* moved,
                 const StepProduct* product) {
    const int64_t width = expert_.width;
    Norm norm = {};
    norm.eps = expert_.eps, norm.tokens = call_.modulated, norm.stream = moved;
    if (const PerSample& all = call_.modulations; all.data) {
      const auto part = [&](int64_t norm_number, int64_t which) {
        return PerSample{all.data + (3 * norm_number + which) * width, all.pitch};
      };
      norm.kind = Norm::adaptive, norm.weight = part(number, 0), norm.shift = part(number, 1);
      if (update) norm.gate = part(number - 1, 2);
    } else {
      norm.kind = Norm::rms, norm.weight = {weight, 0};
    }
    Rows all = rows_of(stream, width, width);
    all.norm = &norm, all.other = update, all.other_pitch = width;
    if (product) return share_rows(team, *product, all);
    all.out = call_.out, all.out_kind = Float::f32;
    share_rows(team, Steps(), all);
  }

  // Rounds rows of `x`; or GELU of them times `up`.
  void round(Team& team, const StepProduct& product, const void* x, const void* up, int64_t pitch) {
    Rows all = rows_of(x, pitch, product.inputs);
    all.gelu = up != nullptr, all.other = up, all.other_pitch = pitch;
    share_rows(team, product, all);
  }

  void multiply(Team& team, const StepProduct& product) {
    int64_t column = 0;
    for (const StepWeight& weight : product.weights) {
      const Linear one = job(product, weight, column);
      const Plan plan(one);
      static thread_local Buffer own;
      void* packed = packed_;
      if (plan.pack_tasks < kPackedAlone) {
        packed = own.hold<char>(plan.workspace);
        for (int64_t task = 0; task < plan.pack_tasks; ++task) pack_task(one, plan, packed, task);
      } else {
        team.share(plan.pack_tasks, [&](int64_t task) { pack_task(one, plan, packed, task); });
      }
      team.share(plan.multiply_tasks, [&](int64_t task) { multiply_task(one, plan, packed, task); });
      column += weight.outputs;
    }
  }

  void turn(Team& team, const StepPast& past) {
    const int64_t head = expert_.head_dim, all = expert_.heads + 2 * expert_.groups;
    const Turning job = {call_.kind,      call_.batch, call_.tokens, expert_.heads, expert_.groups,
                         head,            product_,    all * head,   all,           nullptr,
                         0,               call_.cos,   call_.sin,    call_.table_pitch, past.keys,
                         past.values,     call_.capacity, prefix(),  queries_};
    team.share(rows_, [&](int64_t row) { turn_task(job, row); });
  }

  void attend(Team& team, const StepPast& past) {
    const int64_t head = expert_.head_dim, groups = expert_.groups, shared = expert_.heads / groups;
    const Pitches of_tokens = {call_.tokens * expert_.heads * head, shared * head, expert_.heads * head, head};
    const Pitches of_cache = {groups * call_.capacity * head, call_.capacity * head, head, 0};
    if (call_.kind == Float::f32) {
      const PlainAttention job = {call_.batch, groups, call_.capacity, head, call_.tokens, shared,
                                  reinterpret_cast<const float*>(queries_), of_tokens,
                                  static_cast<const float*>(past.keys), static_cast<const float*>(past.values),
                                  of_cache, of_cache, reinterpret_cast<float*>(mixed_), of_tokens,
                                  prefix(), call_.exists, call_.state_token};
      return team.share(plain_tasks(job), [&](int64_t task) { plain_task(job, task); });
    }
    const LaidOut laid = {call_.batch, groups, call_.capacity, head, past.laid_keys, past.laid_values};
    const int64_t first = prefix() * head;
    const LayingOut own = {laid, static_cast<uint16_t*>(past.keys) + first, of_cache,
                           static_cast<uint16_t*>(past.values) + first, of_cache, prefix(), call_.tokens};
    team.share(lay_out_tasks(own), [&](int64_t task) { lay_out_task(own, task); });
    const Attention job = {laid, call_.capacity, call_.tokens, shared,
                           reinterpret_cast<const uint16_t*>(queries_), of_tokens,
                           reinterpret_cast<uint16_t*>(mixed_), of_tokens, prefix(), call_.exists, call_.state_token};
    const AttentionPlan plan = plan_attention(job, call_.threads);
    team.share(plan.tasks, [&](int64_t task) { attend_task(job, plan, task); });
  }

  int64_t prefix() const { return call_.capacity - call_.tokens; }

  Expert& expert_;
  const StepCall& call_;
  const int64_t rows_, bytes_;
  int8_t* q_;
  float* s_;
  char *product_, *mixed_, *queries_, *streams_[2], *packed_;
};

// Of one row.
int64_t products(const Expert& expert) {
  int64_t all = 0;
  for (const auto& layer : expert.layers)
    for (const StepProduct* one : {&layer->entry, &layer->mixing, &layer->gate_up, &layer->down})
      all += one->inputs * one->outputs;
  return all;
}

}  // namespace

void step(Expert& expert, const StepCall& given) {
  static thread_local Rooms rooms;
  StepCall call = given;
  if (products(expert) * call.batch * call.tokens < kSerialWork) call.threads = 1;
  Step all(expert, call, rooms);
  together(call.threads, [&](Team& team) { all.run(team); });
}

}  // namespace vlapack
