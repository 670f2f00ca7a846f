#include "config/document.hpp"

#include <algorithm>
#include <array>
#include <charconv>

#include <fmt/format.h>

namespace mik::config {

namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};

bool is_bare_key(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
}

std::string decimal(double value) {
  std::array<char, 64> buffer;
  const auto [end, error] = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  std::string text(buffer.data(), error == std::errc() ? end : buffer.data());
  if (text.find_first_of(".en") == std::string::npos) {
    text += ".0";
  }
  return text;
}

std::string list(const Texts& texts) {
  std::string out = "[";
  for (std::size_t i = 0; i < texts.size(); ++i) {
    out += (i == 0 ? "" : ", ") + in_quotes(texts[i]);
  }
  return out + "]";
}

std::string table(const Pairs& pairs) {
  if (pairs.empty()) {
    return "{}";
  }
  std::string out = "{";
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const auto& [name, value] = pairs[i];
    out += fmt::format("{} {} = {}", i == 0 ? "" : ",", key_text(name), in_quotes(value));
  }
  return out + " }";
}

}  // namespace

std::string Origin::to_string() const {
  switch (kind) {
    case Kind::kDefault:
      return "default";
    case Kind::kAutomatic:
      return "automatic";
    case Kind::kFile:
      return line == 0 ? name : fmt::format("{}:{}:{}", name, line, column);
    case Kind::kEnvironment:
      return "env " + name;
    case Kind::kFlag:
      return "flag " + name;
  }
  return {};
}

std::string key_text(std::string_view name) {
  return is_bare_key(name) ? std::string(name) : in_quotes(name);
}

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string to_toml(const Value& value) {
  return std::visit(Overloaded{
                        [](bool flag) -> std::string { return flag ? "true" : "false"; },
                        [](std::uint64_t whole) { return fmt::format("{}", whole); },
                        [](double number) { return decimal(number); },
                        [](const std::string& text) { return in_quotes(text); },
                        [](const Texts& texts) { return list(texts); },
                        [](const Pairs& pairs) { return table(pairs); },
                    },
                    value.data);
}

std::string Problem::to_string() const { return fmt::format("{}: {}", at.to_string(), text); }

const Value* Table::find(std::string_view key) const noexcept {
  for (const auto& [known, value] : values) {
    if (known->name == key) {
      return &value;
    }
  }
  return nullptr;
}

void Table::set(const Key& key, Value value) {
  for (auto& [known, old] : values) {
    if (known == &key) {
      old = std::move(value);
      return;
    }
  }
  values.emplace_back(&key, std::move(value));
}

const Table* Document::find(SectionId id) const noexcept {
  for (const Table& table : tables) {
    if (table.section->id == id) {
      return &table;
    }
  }
  return nullptr;
}

const Value* Document::find(SectionId id, std::string_view key) const noexcept {
  const Table* table = find(id);
  return table != nullptr ? table->find(key) : nullptr;
}

Table& Document::at(SectionId id) {
  for (Table& table : tables) {
    if (table.section->id == id) {
      return table;
    }
  }
  const Section& known = section(id);
  tables.push_back({.section = &known, .path = std::string(known.name)});
  return tables.back();
}

}  // namespace mik::config
