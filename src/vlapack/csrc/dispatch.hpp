// Which instruction set runs.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace vlapack {

// The names of the instruction sets that this CPU has, best first; the last is `portable`.
std::vector<std::string> available();

// The kernels in use: the best there are, or those that `choose` named.
const Kernels& kernels();

// Throws std::invalid_argument if this CPU does not have them.
void choose(const std::string& name);

}  // namespace vlapack
