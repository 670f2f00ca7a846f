#include "gateway/merge.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "base/names.hpp"

namespace mik::gateway {

namespace {

using base::Error;
using base::ErrorCode;
using base::Result;

constexpr std::string_view kTags = "tags";
constexpr std::string_view kOperations = "operationId";

// OpenAPI 3.1 section 4.8.7; the last is not in 3.0.
constexpr std::array<std::string_view, 10> kComponents = {
    "schemas", "responses",       "parameters", "examples",  "requestBodies",
    "headers", "securitySchemes", "links",      "callbacks", "pathItems"};
// Their members are named by the author: none of them is a keyword.
constexpr std::array<std::string_view, 17> kNameMaps = {
    "callbacks", "content", "definitions",       "dependentSchemas", "encoding", "examples",
    "headers",   "links",   "parameters",        "pathItems",        "paths",    "properties",
    "responses", "schemas", "patternProperties", "variables",        "$defs"};
// Data, in which a "$ref" is nothing but a member.
constexpr std::array<std::string_view, 5> kData = {"const", "default", "enum", "example", "value"};
constexpr std::array<std::string_view, 8> kMethods = {"delete", "get",  "head", "options",
                                                      "patch",  "post", "put",  "trace"};

bool is_one_of(std::string_view name, const auto& list) noexcept {
  return std::ranges::find(list, name) != list.end();
}

bool is_plain(char c) noexcept {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
         c == '.' || c == '_';
}

// As part of a JSON pointer (RFC 6901) in a URI's fragment.
std::string as_pointer(std::string_view path) {
  std::string out;
  for (const char c : path) {
    if (c == '~') {
      out += "~0";
    } else if (c == '/') {
      out += "~1";
    } else if (c == '%') {
      out += "%25";
    } else {
      out += c;
    }
  }
  return out;
}

bool is_extension(std::string_view name) noexcept { return name.starts_with("x-"); }

}  // namespace

// One module's document on its way into the whole.
class OpenApiMerge::Part {
 public:
  Part(OpenApiMerge& whole, std::string_view module)
      : whole_(whole),
        module_(module),
        place_(whole.prefix_ + "/" + base::percent_encode(module)) {}

  Result<void> read(std::string_view text);
  void take_paths();
  void take_components();
  void take_tags();

  std::size_t bytes() const noexcept { return bytes_; }
  bool too_large() const noexcept { return whole_.bytes_ + bytes_ > kMergedBytesMax; }
  bool newer() const noexcept { return newer_; }
  Texts paths;
  std::map<std::string, Texts> components;
  Texts tags;

 private:
  enum class Meaning : std::uint8_t { kKeywords, kNames };

  const std::string& rename(std::string_view kind, std::string_view name);
  std::string reference(std::string_view target);
  void rewrite(Json& value, Meaning members);
  void rewrite_keyword(std::string_view name, Json& value);
  void rewrite_strings(std::string_view kind, Json& list);
  void rewrite_security(Json& list);
  void rewrite_mapping(Json& mapping);
  void keep(Texts& where, std::string name, const Json& value);

  OpenApiMerge& whole_;
  std::string_view module_;
  std::string place_;
  Json document_;
  std::map<std::pair<std::string, std::string>, std::string> renamed_;
  std::size_t bytes_ = 0;
  bool newer_ = false;
};

Result<void> OpenApiMerge::Part::read(std::string_view text) {
  MIK_TRY_ASSIGN(document_, parse_json(text));
  const Json* version = document_.find("openapi");
  if (version == nullptr || !version->is_string() ||
      !(version->text.starts_with("3.0.") || version->text.starts_with("3.1."))) {
    return Error(ErrorCode::kBadMessage, "no OpenAPI document of version 3.0 or 3.1");
  }
  newer_ = version->text.starts_with("3.1.");
  return {};
}

void OpenApiMerge::Part::take_paths() {
  Json* all = document_.find("paths");
  if (all == nullptr || !all->is_object()) {
    return;
  }
  const Json* security = document_.find("security");
  for (JsonMember& path : all->members) {
    if (is_extension(path.name) || !path.value.is_object()) {
      continue;
    }
    // Where the paths begin, and who may call them, is said once in a part, and no more in the
    // whole.
    path.value.erase("servers");
    for (const std::string_view method : kMethods) {
      Json* operation = path.value.find(method);
      if (operation != nullptr && operation->is_object()) {
        operation->erase("servers");
        if (security != nullptr && operation->find("security") == nullptr) {
          operation->set("security", *security);
        }
      }
    }
    rewrite(path.value, Meaning::kKeywords);
    keep(paths, place_ + (path.name.starts_with('/') ? "" : "/") + path.name, path.value);
    // A copy of the document's security is in each operation: one path's are there at a time.
    path.value = Json::object();
    if (too_large()) {
      return;
    }
  }
}

void OpenApiMerge::Part::take_components() {
  Json* all = document_.find("components");
  if (all == nullptr) {
    return;
  }
  for (const std::string_view kind : kComponents) {
    Json* of_kind = all->find(kind);
    if (of_kind == nullptr) {
      continue;
    }
    for (JsonMember& component : of_kind->members) {
      if (component.value.is_object()) {
        rewrite(component.value, Meaning::kKeywords);
        keep(components[std::string(kind)], rename(kind, component.name), component.value);
      }
    }
  }
}

void OpenApiMerge::Part::take_tags() {
  Json* all = document_.find(kTags);
  if (all == nullptr) {
    return;
  }
  for (Json& tag : all->items) {
    Json* name = tag.find("name");
    if (name != nullptr && name->is_string()) {
      name->text = rename(kTags, name->text);
      keep(tags, name->text, tag);
    }
  }
}

void OpenApiMerge::Part::keep(Texts& where, std::string name, const Json& value) {
  std::string text;
  append_json(text, value);
  bytes_ += name.size() + text.size() + 4;
  where.insert_or_assign(std::move(name), std::move(text));
}

const std::string& OpenApiMerge::Part::rename(std::string_view kind, std::string_view name) {
  std::string& made = renamed_[{std::string(kind), std::string(name)}];
  if (made.empty()) {
    made = whole_.name_for(kind, module_, name);
  }
  return made;
}

std::string OpenApiMerge::Part::reference(std::string_view target) {
  constexpr std::string_view kToComponent = "#/components/";
  constexpr std::string_view kToPath = "#/paths/";
  if (target.starts_with(kToComponent)) {
    const std::string_view rest = target.substr(kToComponent.size());
    const std::size_t slash = rest.find('/');
    if (slash == std::string_view::npos) {
      return std::string(target);
    }
    const std::string_view kind = rest.substr(0, slash);
    const std::string_view name = rest.substr(slash + 1, rest.find('/', slash + 1) - slash - 1);
    return fmt::format("{}{}/{}{}", kToComponent, kind, rename(kind, name),
                       rest.substr(slash + 1 + name.size()));
  }
  if (target.starts_with(kToPath)) {
    const std::string_view rest = target.substr(kToPath.size());
    return fmt::format("{}{}{}{}", kToPath, as_pointer(place_), rest.starts_with("~1") ? "" : "~1",
                       rest);
  }
  return std::string(target);
}

void OpenApiMerge::Part::rewrite(Json& value, Meaning members) {
  for (Json& item : value.items) {
    rewrite(item, Meaning::kKeywords);
  }
  for (JsonMember& member : value.members) {
    if (members == Meaning::kNames) {
      rewrite(member.value, Meaning::kKeywords);
    } else {
      rewrite_keyword(member.name, member.value);
    }
  }
}

void OpenApiMerge::Part::rewrite_keyword(std::string_view name, Json& value) {
  if (is_extension(name) || is_one_of(name, kData)) {
    return;
  }
  if (value.is_string()) {
    if (name == "$ref" || name == "operationRef") {
      value.text = reference(value.text);
    } else if (name == kOperations) {
      value.text = rename(kOperations, value.text);
    }
  } else if (name == kTags) {
    rewrite_strings(kTags, value);
  } else if (name == "security") {
    rewrite_security(value);
  } else if (name == "mapping") {
    rewrite_mapping(value);
  } else if (name != "examples" || value.is_object()) {  // a list of them: data
    rewrite(value, is_one_of(name, kNameMaps) ? Meaning::kNames : Meaning::kKeywords);
  }
}

void OpenApiMerge::Part::rewrite_strings(std::string_view kind, Json& list) {
  for (Json& item : list.items) {
    if (item.is_string()) {
      item.text = rename(kind, item.text);
    }
  }
}

void OpenApiMerge::Part::rewrite_security(Json& list) {
  for (Json& requirement : list.items) {
    Json renamed = Json::object();
    for (JsonMember& scheme : requirement.members) {
      renamed.set(rename("securitySchemes", scheme.name), std::move(scheme.value));
    }
    if (requirement.is_object()) {
      requirement = std::move(renamed);
    }
  }
}

// Of a discriminator: values name a schema, or refer to it.
void OpenApiMerge::Part::rewrite_mapping(Json& mapping) {
  const Json* all = document_.find("components");
  const Json* schemas = all == nullptr ? nullptr : all->find("schemas");
  for (JsonMember& member : mapping.members) {
    std::string& target = member.value.text;
    if (!member.value.is_string()) {
      continue;
    }
    if (schemas != nullptr && schemas->find(target) != nullptr) {
      target = "#/components/schemas/" + rename("schemas", target);
    } else {
      target = reference(target);
    }
  }
}

OpenApiMerge::OpenApiMerge(std::string_view prefix) : prefix_(prefix) {
  components_["schemas"];  // there even where nothing is in it
}

std::string OpenApiMerge::name_for(std::string_view kind, std::string_view module,
                                   std::string_view name) {
  std::string made = fmt::format("{}_{}", module, name);
  if (is_one_of(kind, kComponents)) {
    // "^[a-zA-Z0-9\.\-_]+$" (OpenAPI 3.0 section 4.7.7).
    std::ranges::replace_if(made, [](char c) { return !is_plain(c); }, '_');
  }
  auto [wanted, free] = names_.try_emplace({std::string(kind), made}, 2);
  while (!free) {
    // "a" and its "b_c", "a_b" and its "c".
    std::string next = fmt::format("{}_{}", made, wanted->second++);
    if (names_.try_emplace({std::string(kind), next}, 2).second) {
      return next;
    }
  }
  return made;
}

Result<void> OpenApiMerge::add(std::string_view module, std::string_view text) {
  Part part(*this, module);
  MIK_TRY(part.read(text));
  part.take_paths();
  part.take_components();
  part.take_tags();
  if (part.too_large()) {
    return Error(ErrorCode::kOverload, fmt::format("the documents together are larger than {} MiB",
                                                   kMergedBytesMax >> 20));
  }
  bytes_ += part.bytes();
  newer_ = newer_ || part.newer();
  paths_.merge(part.paths);
  for (auto& [kind, texts] : part.components) {
    components_[kind].merge(texts);
  }
  tags_.merge(part.tags);
  return {};
}

std::string OpenApiMerge::finish(std::string_view title, std::string_view server) const {
  const auto members = [](std::string& out, const Texts& texts) {
    out += '{';
    std::string_view between;
    for (const auto& [name, text] : texts) {
      out += between;
      append_json_string(out, name);
      out += ':';
      out += text;
      between = ",";
    }
    out += '}';
  };
  std::string out = "{\"components\":{";
  std::string_view between;
  for (const auto& [kind, texts] : components_) {
    out += between;
    append_json_string(out, kind);
    out += ':';
    members(out, texts);
    between = ",";
  }
  out += "},\"info\":{\"title\":";
  append_json_string(out, title);
  out += ",\"version\":\"1.0.0\"},\"openapi\":";
  out += newer_ ? "\"3.1.0\"" : "\"3.0.3\"";
  out += ",\"paths\":";
  members(out, paths_);
  if (!server.empty()) {
    out += ",\"servers\":[{\"url\":";
    append_json_string(out, server);
    out += "}]";
  }
  if (!tags_.empty()) {
    out += ",\"tags\":[";
    between = {};
    for (const auto& [name, text] : tags_) {
      out += between;
      out += text;
      between = ",";
    }
    out += ']';
  }
  out += '}';
  return out;
}

}  // namespace mik::gateway
