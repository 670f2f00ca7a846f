// Documents as modules may bring them, between NUL bytes. Whatever they say, the whole is JSON, all
// its paths and components lie where the modules' places and names put them, and a document that
// was merged can be merged again.
#include "gateway/merge.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

namespace {

using namespace mik::gateway;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "the merge is wrong: %s\n", what);
    std::abort();
  }
}

bool plain(std::string_view name) {
  return std::ranges::all_of(name, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '.' || c == '_';
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  OpenApiMerge merge("/run");
  for (int number = 0; !rest.empty() && number < 4; ++number) {
    const std::string_view part = rest.substr(0, rest.find('\0'));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    static_cast<void>(merge.add(number == 1 ? "a b" : "m" + std::to_string(number), part));
  }
  const std::string text = merge.finish("T", "/s");
  const auto whole = parse_json(text);
  if (!whole.has_value()) {
    require(whole.error().message().find(" too ") != std::string::npos, "no JSON");
    return 0;  // more values, or deeper, than what is read
  }
  for (const JsonMember& path : whole->find("paths")->members) {
    require(path.name.starts_with("/run/m") || path.name.starts_with("/run/a%20b/"),
            "a path is elsewhere");
    require(path.value.is_object(), "a path without an object");
  }
  for (const JsonMember& kind : whole->find("components")->members) {
    for (const JsonMember& component : kind.value.members) {
      require(plain(component.name), "a component's name");
    }
  }
  OpenApiMerge again("");
  require(again.add("x", text).has_value(), "it cannot be merged again");
  return 0;
}
