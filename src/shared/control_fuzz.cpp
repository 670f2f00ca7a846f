// Fuzz target: control messages. What decodes must encode to the same bytes again.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/assert.hpp"
#include "shared/control.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto message = mik::shared::decode(bytes);
  if (message) {
    MIK_ASSERT(mik::shared::encode(*message) == bytes);
  }
  return 0;
}
