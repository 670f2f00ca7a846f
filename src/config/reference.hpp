// docs/reference/config.md from the model. For the generator and its test; not in the binary.
#pragma once

#include <string>

namespace mik::config {

std::string reference_page();

}  // namespace mik::config
