// Documents about what is served: "/_mik/..." and "/openapi/...". A worker asks for them; who has
// them is above it (src/gateway).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "config/settings.hpp"

namespace mik::runtime {

struct Document {
  int status = 200;
  std::shared_ptr<const std::string> body;  // JSON
  bool schema = false;                      // a module's own file, or that there is none
  std::vector<std::string> warnings;        // for the log
};

class Documents {
 public:
  virtual ~Documents() = default;
  // `path` is without query, and begins with "/_mik/" or "/openapi/". On a thread of the pool, one
  // call at a time. Does not throw but for want of memory.
  virtual Document find_blocking(std::string_view path) = 0;
};

// The settings outlive what is made.
using MakeDocuments = std::function<std::unique_ptr<Documents>(const config::Settings&)>;

}  // namespace mik::runtime
