#include "config/reader.hpp"

#include <algorithm>
#include <optional>
#include <tuple>

#include <fmt/format.h>

#include "config/suggest.hpp"
#include "config/toml_guard.hpp"

// Header only and without exceptions, in this file alone: it takes long to compile.
#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#define TOML_MAX_NESTED_VALUES 32
#include <toml++/toml.h>

namespace mik::config {

namespace {

constexpr std::size_t kProblemsMax = 100;
constexpr std::size_t kShownMax = 80;

std::string shorten(std::string text) {
  if (text.size() > kShownMax) {
    text.resize(kShownMax);
    while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xc0) == 0x80) {
      text.pop_back();  // not within a character
    }
    text += "...";
  }
  return text;
}

// For a message: as it would be written.
std::string shown(const toml::node& node) {
  if (const auto* text = node.as_string()) {
    return in_quotes(shorten(text->get()));
  }
  if (const auto* whole = node.as_integer()) {
    return fmt::format("{}", whole->get());
  }
  if (const auto* number = node.as_floating_point()) {
    return fmt::format("{}", number->get());
  }
  if (const auto* flag = node.as_boolean()) {
    return flag->get() ? "true" : "false";
  }
  return node.is_array() ? "a list" : node.is_table() ? "a table" : "a date or time";
}

class Reader {
 public:
  explicit Reader(std::string file) { result_.document.file = std::move(file); }

  ReadResult read(std::string_view text);

 private:
  Origin at(const toml::source_region& region) const {
    return {Origin::Kind::kFile, result_.document.file, region.begin.line, region.begin.column};
  }
  void problem(const toml::source_region& region, std::string text) {
    result_.problems.push_back({at(region), std::move(text)});
  }
  void refuse(const toml::node& node, const std::string& path, const std::string& must) {
    problem(node.source(), fmt::format("{} = {}: must be {}", path, shown(node), must));
  }

  void read_root(const toml::table& root);
  void read_section(const Section& known, const toml::key& name, const toml::node& node);
  void read_named(const Section& known, const toml::node& node);
  void read_list(const Section& known, const toml::node& node);
  void read_table(const Section& known, std::string path, std::string name,
                  const toml::source_region& header, const toml::table& from);
  void read_shorthand(const Section& known, std::string name, const toml::key& key,
                      const toml::node& node);
  void unknown_section(const toml::key& name, const toml::node& node);
  void unknown_key(const Section& known, const std::string& path, const toml::key& name);

  std::optional<Value> convert(const Key& key, const std::string& path, const toml::node& node);
  std::optional<Value> convert_texts(const Key& key, const std::string& path,
                                     const toml::node& node);
  std::optional<Value> convert_pairs(const Key& key, const std::string& path,
                                     const toml::node& node);
  std::optional<Value> convert_persons(const std::string& path, const toml::node& node);

  ReadResult result_;
};

ReadResult Reader::read(std::string_view text) {
  if (text.size() > kManifestBytesMax) {
    result_.problems.push_back(
        {{Origin::Kind::kFile, result_.document.file, 0, 0},
         fmt::format("{} bytes: a manifest has at most {}", text.size(), kManifestBytesMax)});
    return std::move(result_);
  }
  if (const auto trouble = find_trouble(text); trouble.has_value()) {
    result_.problems.push_back(
        {{Origin::Kind::kFile, result_.document.file, trouble->line, trouble->column},
         "not TOML that is read here: " + std::string(trouble->what)});
    return std::move(result_);
  }
  const toml::parse_result parsed = toml::parse(text);
  if (!parsed) {
    const std::string said(parsed.error().description());
    std::string clean = in_quotes(said);  // it may quote the file
    problem(parsed.error().source(),
            "not TOML: " + std::string(clean, 1, std::min(clean.size() - 2, std::size_t{400})));
    return std::move(result_);
  }
  read_root(parsed.table());
  std::ranges::sort(result_.problems, {}, [](const Problem& problem) {
    return std::tie(problem.at.line, problem.at.column, problem.text);
  });
  if (result_.problems.size() > kProblemsMax) {
    result_.problems.resize(kProblemsMax);
  }
  return std::move(result_);
}

void Reader::read_root(const toml::table& root) {
  for (const auto& [name, node] : root) {
    if (const Section* known = find_section(name.str()); known != nullptr) {
      read_section(*known, name, node);
    } else {
      unknown_section(name, node);
    }
  }
}

void Reader::unknown_section(const toml::key& name, const toml::node& node) {
  const std::string word(name.str());
  if (!node.is_table() && !node.is_array_of_tables()) {
    for (const Key& key : keys()) {
      if (key.name == word) {
        problem(name.source(), fmt::format("{}: stands outside of a section; put it below [{}]",
                                           word, section(key.section).name));
        return;
      }
    }
  }
  std::vector<std::string> names;
  for (const Section& known : sections()) {
    names.emplace_back(known.name);
  }
  const auto near = did_you_mean(word, names);
  problem(name.source(),
          fmt::format("unknown section {}{}", in_quotes(shorten(word)),
                      near.has_value() ? fmt::format("; did you mean [{}]?", *near)
                                       : "; docs/reference/config.md lists what there is"));
}

void Reader::unknown_key(const Section& known, const std::string& path, const toml::key& name) {
  const std::string word(name.str());
  std::vector<std::string> names;
  const Section* elsewhere = nullptr;
  for (const Key& key : keys()) {
    if (key.section == known.id) {
      names.emplace_back(key.name);
    } else if (key.name == word && elsewhere == nullptr) {
      elsewhere = &section(key.section);
    }
  }
  std::string hint;
  if (const auto near = did_you_mean(word, names); near.has_value()) {
    hint = fmt::format("; did you mean {}?", *near);
  } else if (elsewhere != nullptr) {
    hint = fmt::format("; it is a key of [{}]", elsewhere->name);
  }
  problem(name.source(), fmt::format("{}: unknown key {}{}", path, in_quotes(shorten(word)), hint));
}

void Reader::read_section(const Section& known, const toml::key& name, const toml::node& node) {
  switch (known.shape) {
    case Shape::kOne:
      if (const toml::table* table = node.as_table()) {
        read_table(known, std::string(known.name), {}, name.source(), *table);
      } else {
        refuse(node, std::string(known.name), fmt::format("a section: [{}]", known.name));
      }
      break;
    case Shape::kNamed:
      read_named(known, node);
      break;
    case Shape::kList:
      read_list(known, node);
      break;
  }
}

void Reader::read_named(const Section& known, const toml::node& node) {
  const toml::table* tables = node.as_table();
  if (tables == nullptr) {
    refuse(node, std::string(known.name), fmt::format("sections: [{}.NAME]", known.name));
    return;
  }
  for (const auto& [name, entry] : *tables) {
    std::string word(name.str());
    const std::string path = fmt::format("{}.{}", known.name, key_text(word));
    if (const toml::table* table = entry.as_table()) {
      read_table(known, path, std::move(word), name.source(), *table);
    } else if (entry.is_string() &&
               (known.id == SectionId::kDependencies || known.id == SectionId::kDevDependencies)) {
      read_shorthand(known, std::move(word), name, entry);
    } else {
      refuse(entry, path, fmt::format("a section: [{}.NAME]", known.name));
    }
  }
}

void Reader::read_list(const Section& known, const toml::node& node) {
  const toml::array* tables = node.as_array();
  const std::string must = fmt::format("a list of sections: [[{}]]", known.name);
  if (tables == nullptr) {
    refuse(node, std::string(known.name), must);
    return;
  }
  std::size_t index = 0;
  for (const toml::node& entry : *tables) {
    const std::string path = fmt::format("{}[{}]", known.name, index++);
    if (const toml::table* table = entry.as_table()) {
      read_table(known, path, {}, entry.source(), *table);
    } else {
      refuse(entry, path, must);
    }
  }
}

void Reader::read_shorthand(const Section& known, std::string name, const toml::key& key,
                            const toml::node& node) {
  Table table{.section = &known, .name = std::move(name), .origin = at(key.source())};
  table.path = fmt::format("{}.{}", known.name, key_text(table.name));
  table.set(*find_key(known.id, "version"),
            {.data = node.as_string()->get(), .origin = at(node.source())});
  result_.document.tables.push_back(std::move(table));
}

void Reader::read_table(const Section& known, std::string path, std::string name,
                        const toml::source_region& header, const toml::table& from) {
  Table table{.section = &known, .name = std::move(name), .origin = at(header)};
  for (const auto& [word, node] : from) {
    const Key* key = find_key(known.id, word.str());
    if (key == nullptr) {
      unknown_key(known, path, word);
      continue;
    }
    auto value = convert(*key, fmt::format("{}.{}", path, key->name), node);
    if (value.has_value()) {
      table.set(*key, std::move(*value));
    }
  }
  for (const Key& key : keys()) {
    if (key.section == known.id && key.required && !from.contains(key.name)) {
      problem(header,
              fmt::format("{}.{} is required{}", path, key.name,
                          key.section == SectionId::kProject ? ": Project name is required" : ""));
    }
  }
  table.path = std::move(path);
  result_.document.tables.push_back(std::move(table));
}

std::optional<Value> Reader::convert(const Key& key, const std::string& path,
                                     const toml::node& node) {
  const Origin origin = at(node.source());
  switch (key.type) {
    case Type::kBool:
      if (const auto* flag = node.as_boolean()) {
        return Value{.data = flag->get(), .origin = origin};
      }
      break;
    case Type::kWhole:
      if (const auto* whole = node.as_integer();
          whole != nullptr && whole->get() >= 0 &&
          static_cast<std::uint64_t>(whole->get()) >= key.min &&
          static_cast<std::uint64_t>(whole->get()) <= key.max) {
        return Value{.data = static_cast<std::uint64_t>(whole->get()), .origin = origin};
      }
      break;
    case Type::kNumber: {
      const std::optional<double> number = node.value<double>();
      // Written so that not-a-number fails.
      if (number.has_value() && node.is_number() && *number >= static_cast<double>(key.min) &&
          *number <= static_cast<double>(key.max)) {
        return Value{.data = *number, .origin = origin};
      }
      break;
    }
    case Type::kText:
    case Type::kPath:
      if (const auto* text = node.as_string()) {
        return Value{.data = text->get(), .origin = origin};
      }
      break;
    case Type::kTexts:
      return convert_texts(key, path, node);
    case Type::kPairs:
      return convert_pairs(key, path, node);
    case Type::kPersons:
      return convert_persons(path, node);
  }
  refuse(node, path, describe_type(key));
  return std::nullopt;
}

std::optional<Value> Reader::convert_texts(const Key& key, const std::string& path,
                                           const toml::node& node) {
  const toml::array* list = node.as_array();
  if (list == nullptr) {
    refuse(node, path, describe_type(key));
    return std::nullopt;
  }
  Value value{.data = Texts(), .origin = at(node.source())};
  auto& texts = std::get<Texts>(value.data);
  bool good = true;
  for (const toml::node& entry : *list) {
    if (const auto* text = entry.as_string()) {
      texts.push_back(text->get());
      value.elements.push_back(at(entry.source()));
    } else {
      refuse(entry, fmt::format("{}[{}]", path, texts.size()), "a text in quotes");
      good = false;
    }
  }
  return good ? std::optional(std::move(value)) : std::nullopt;
}

std::optional<Value> Reader::convert_pairs(const Key& key, const std::string& path,
                                           const toml::node& node) {
  const toml::table* table = node.as_table();
  if (table == nullptr) {
    refuse(node, path, describe_type(key));
    return std::nullopt;
  }
  Value value{.data = Pairs(), .origin = at(node.source())};
  auto& pairs = std::get<Pairs>(value.data);
  bool good = true;
  for (const auto& [name, entry] : *table) {
    if (const auto* text = entry.as_string()) {
      pairs.emplace_back(std::string(name.str()), text->get());
      value.elements.push_back(at(entry.source()));
    } else {
      refuse(entry, fmt::format("{}.{}", path, in_quotes(shorten(std::string(name.str())))),
             "a text in quotes");
      good = false;
    }
  }
  return good ? std::optional(std::move(value)) : std::nullopt;
}

std::optional<Value> Reader::convert_persons(const std::string& path, const toml::node& node) {
  const toml::array* list = node.as_array();
  constexpr const char* kMust = "tables: { name = \"...\", email = \"...\" }, the email optional";
  if (list == nullptr) {
    refuse(node, path, kMust);
    return std::nullopt;
  }
  Value value{.data = Texts(), .origin = at(node.source())};
  bool good = true;
  for (const toml::node& entry : *list) {
    const toml::table* person = entry.as_table();
    const auto text = [&](const char* name) {
      return person != nullptr ? person->get_as<std::string>(name) : nullptr;
    };
    const auto* name = text("name");
    const auto* email = text("email");
    if (name == nullptr || name->get().empty() || person->size() != (email == nullptr ? 1U : 2U)) {
      refuse(entry, path, kMust);
      good = false;
      continue;
    }
    std::get<Texts>(value.data)
        .push_back(email == nullptr ? name->get()
                                    : fmt::format("{} <{}>", name->get(), email->get()));
    value.elements.push_back(at(entry.source()));
  }
  return good ? std::optional(std::move(value)) : std::nullopt;
}

}  // namespace

std::string describe_type(const Key& key) {
  switch (key.type) {
    case Type::kBool:
      return "true or false";
    case Type::kWhole:
      return fmt::format("a whole number from {} to {}", key.min, key.max);
    case Type::kNumber:
      return fmt::format("a number from {} to {}", key.min, key.max);
    case Type::kText:
    case Type::kPath:
      return "a text in quotes";
    case Type::kTexts:
      return "a list of texts: [\"a\", \"b\"]";
    case Type::kPairs:
      return "a table of texts: { NAME = \"value\" }";
    case Type::kPersons:
      return "a list of tables";
  }
  return {};
}

ReadResult read_manifest(std::string_view text, std::string file) {
  return Reader(std::move(file)).read(text);
}

}  // namespace mik::config
