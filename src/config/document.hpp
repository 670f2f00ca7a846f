// What a manifest says, key by key, with the place where each value stands. A value type.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "config/model.hpp"

namespace mik::config {

// Where a value comes from.
struct Origin {
  enum class Kind : std::uint8_t { kDefault, kAutomatic, kFile, kEnvironment, kFlag };
  Kind kind = Kind::kDefault;
  std::string name;  // the file, the variable, the flag
  std::uint32_t line = 0;
  std::uint32_t column = 0;

  // "/etc/mik/mik.toml:6:8", "env PORT", "flag --port", "automatic", "default".
  std::string to_string() const;
};

using Texts = std::vector<std::string>;
using Pairs = std::vector<std::pair<std::string, std::string>>;

struct Value {
  std::variant<bool, std::uint64_t, double, std::string, Texts, Pairs> data;
  Origin origin;
  std::vector<Origin> elements;  // of a list in a file: where each element stands

  bool flag() const { return std::get<bool>(data); }
  std::uint64_t whole() const { return std::get<std::uint64_t>(data); }
  double number() const { return std::get<double>(data); }
  const std::string& text() const { return std::get<std::string>(data); }
  const Texts& texts() const { return std::get<Texts>(data); }
  const Pairs& pairs() const { return std::get<Pairs>(data); }

  const Origin& element(std::size_t index) const {
    return index < elements.size() ? elements[index] : origin;
  }
};

// The value as TOML: 3000, "x", ["a", "b"], { A = "b" }.
std::string to_toml(const Value& value);
// A name as a key of TOML: bare where it can be, else quoted.
std::string key_text(std::string_view name);
// In double quotes, with nothing in it that a terminal would act on.
std::string in_quotes(std::string_view text);

// What is wrong, and where.
struct Problem {
  Origin at;
  std::string text;      // "server.port = 0: must be ..."
  bool warning = false;  // to be said, and no reason to refuse

  std::string to_string() const;
};

// One [section], one [section.NAME] or one [[section]].
struct Table {
  const Section* section = nullptr;
  std::string name;  // Shape::kNamed
  Origin origin;     // of its header
  std::vector<std::pair<const Key*, Value>> values;

  const Value* find(std::string_view key) const noexcept;
  // In place of what was there.
  void set(const Key& key, Value value);
  // "server", "modules.api", "routes[2]".
  std::string path;
};

struct Document {
  std::string file;           // absolute; empty when there is none
  std::vector<Table> tables;  // in the order of the file

  const Table* find(SectionId section) const noexcept;  // of Shape::kOne
  const Value* find(SectionId section, std::string_view key) const noexcept;
  // Added at the end when it is not there.
  Table& at(SectionId section);
};

}  // namespace mik::config
