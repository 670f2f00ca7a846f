// OpenAPI documents of several modules as one (runtime.md 12.2): paths get the module's place in
// front, and every name that must be unique in a document (components, tags, operations) the
// module's name. Confined to the thread that made it.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.hpp"
#include "gateway/json.hpp"

namespace mik::gateway {

inline constexpr std::size_t kMergedBytesMax = std::size_t{16} << 20;

class OpenApiMerge {
 public:
  // `prefix` stands before each path: "/run", or nothing.
  explicit OpenApiMerge(std::string_view prefix);

  // A module's document. Nothing of one that is refused is taken. kBadMessage: no OpenAPI 3.0 or
  // 3.1; kOverload: the whole would be larger than kMergedBytesMax.
  base::Result<void> add(std::string_view module, std::string_view text);

  // The document. 3.0.3, or 3.1.0 when a part of it is. `server`: where its paths begin, or
  // nothing.
  std::string finish(std::string_view title, std::string_view server) const;

 private:
  class Part;
  using Texts = std::map<std::string, std::string>;

  std::string name_for(std::string_view kind, std::string_view module, std::string_view name);

  std::string prefix_;
  Texts paths_;
  std::map<std::string, Texts> components_;
  Texts tags_;
  // In use, by kind and name; and the number to try next for one that is wanted again.
  std::map<std::pair<std::string, std::string>, unsigned> names_;
  std::size_t bytes_ = 0;
  bool newer_ = false;
};

}  // namespace mik::gateway
