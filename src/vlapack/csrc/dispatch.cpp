#include "dispatch.hpp"

#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
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

std::vector<const Kernels*> found() {
  std::vector<const Kernels*> all;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    all.push_back(&kAvx512Vnni);
  if (avx2 && has_avx_vnni()) all.push_back(&kAvxVnni);
  if (avx2) all.push_back(&kAvx2);
#elif defined(__aarch64__)
  if (has_dot_product() && has_i8mm()) all.push_back(&kNeonI8mm);
  if (has_dot_product()) all.push_back(&kNeon);
#endif
  all.push_back(&kPortable);
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
