#include "dispatch.hpp"

#include <stdexcept>

#include "attention.hpp"
#include "matrix_unit.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__APPLE__) && defined(__aarch64__)
#include <sys/sysctl.h>
#endif

namespace vlapack {
namespace {

#if defined(__x86_64__)
bool has_avx_vnni() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}

bool has_avx512_bf16() {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
}

// Tiles are 8 KB of state for a thread, which Linux (5.16 and later) keeps for a process that asked to use them.
bool may_use_amx() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25, kBf16 = 1u << 5;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTile) && (d & kInt8) &&
         __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kBf16) &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#elif defined(__linux__) && defined(__aarch64__)
bool has_dot_product() { return getauxval(AT_HWCAP) & 1ul << 20; }  // HWCAP_ASIMDDP
bool has_i8mm() { return getauxval(AT_HWCAP2) & 1ul << 13; }        // HWCAP2_I8MM
#elif defined(__APPLE__) && defined(__aarch64__)
bool has_dot_product() { return true; }  // every Apple chip since 2018
bool has_i8mm() {
  int has = 0;
  size_t bytes = sizeof(has);
  return sysctlbyname("hw.optional.arm.FEAT_I8MM", &has, &bytes, nullptr, 0) == 0 && has;
}
#endif

Kernels with_unit(Kernels others, const char* name, const MatrixUnit& unit, int64_t (*peak)(int64_t)) {
  others.name = name;
  others.matrix_unit = &unit;
  others.peak = peak;
  return others;
}

std::vector<const Kernels*> found() {
  std::vector<const Kernels*> all;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni")) {
    static Kernels avx512 = kAvx512Vnni;
    if (has_avx512_bf16()) avx512.attention = &kAvx512Bf16;
    static const Kernels amx = with_unit(avx512, "amx", kAmx, amx_peak);
    if (may_use_amx()) all.push_back(&amx);
    all.push_back(&avx512);
  }
  if (avx2 && has_avx_vnni()) all.push_back(&kAvxVnni);
  if (avx2) all.push_back(&kAvx2);
#elif defined(__aarch64__)
  if (has_dot_product() && has_i8mm()) all.push_back(&kNeonI8mm);
  if (has_dot_product()) all.push_back(&kNeon);
#endif
  all.push_back(&kPortable);
  static const Kernels emulated = with_unit(kPortable, "amx-emulated", kAmxEmulated, kPortable.peak);
  all.push_back(&emulated);
  return all;
}

const std::vector<const Kernels*>& cached() {
  static const std::vector<const Kernels*> all = found();
  return all;
}

const Kernels*& active() {
  static const Kernels* chosen = cached().front();
  return chosen;
}

}  // namespace

std::vector<std::string> available() {
  std::vector<std::string> names;
  for (const Kernels* each : cached()) names.emplace_back(each->name);
  return names;
}

const Kernels& kernels() { return *active(); }

void choose(const std::string& name) {
  for (const Kernels* each : cached()) {
    if (name == each->name) {
      active() = each;
      return;
    }
  }
  throw std::invalid_argument(name + ": this CPU or this build does not have it");
}

}  // namespace vlapack
