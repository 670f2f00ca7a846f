#include "config/toml_guard.hpp"

#include <algorithm>

namespace mik::config {

namespace {

bool is_ascii(char c) noexcept { return static_cast<unsigned char>(c) < 0x80; }
bool is_blank(char c) noexcept { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

bool continues_key(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-' || c == ' ' || c == '\t';
}

class Scanner {
 public:
  explicit Scanner(std::string_view text) noexcept : text_(text) {
    if (text_.starts_with("\xef\xbb\xbf")) {
      at_ = 3;
    }
  }

  std::optional<TomlTrouble> run() noexcept {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"' || c == '\'') {
        if (!pass_string()) {
          return trouble("after a backslash that ends a line: ASCII is needed to go on");
        }
        continue;
      }
      if (c == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
        continue;
      }
      if (!is_ascii(c)) {
        return trouble("a character beyond ASCII stands outside of quotes");
      }
      if (c == '.') {
        if (++parts_ > kKeyPartsMax) {
          return trouble("a key has more than 16 parts");
        }
      } else if (!continues_key(c)) {
        parts_ = 1;
      }
      ++at_;
    }
    return std::nullopt;
  }

 private:
  TomlTrouble trouble(std::string_view what) const noexcept {
    const std::string_view before = text_.substr(0, at_);
    const std::size_t start = before.rfind('\n') + 1;  // 0 when there is none
    return {static_cast<std::uint32_t>(std::ranges::count(before, '\n') + 1),
            static_cast<std::uint32_t>(at_ - start + 1), what};
  }

  // To behind the string that begins here; to the end when it does not end. False: trouble.
  bool pass_string() noexcept {
    const char quote = text_[at_];
    const std::string_view three = text_.substr(at_, 3);
    const bool triple = three.size() == 3 && three[1] == quote && three[2] == quote;
    at_ += triple ? 3 : 1;
    while (at_ < text_.size()) {
      if (quote == '"' && text_[at_] == '\\') {
        if (!pass_escape(triple)) {
          return false;
        }
      } else if (triple && text_.substr(at_, 3) == three) {
        at_ += 3;
        while (at_ < text_.size() && text_[at_] == quote) {
          ++at_;  // up to two quotes may stand before the closing three
        }
        return true;
      } else if (!triple && (text_[at_] == quote || text_[at_] == '\n')) {
        at_ += text_[at_] == quote ? 1 : 0;
        return true;
      } else {
        ++at_;
      }
    }
    return true;
  }

  bool pass_escape(bool triple) noexcept {
    ++at_;
    if (triple) {
      const std::size_t start = at_;
      while (at_ < text_.size() && is_blank(text_[at_])) {
        ++at_;
      }
      if (at_ < text_.size() && !is_ascii(text_[at_])) {
        return false;
      }
      if (at_ > start) {
        return true;
      }
    }
    at_ = std::min(at_ + 1, text_.size());
    return true;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t parts_ = 1;
};

}  // namespace

std::optional<TomlTrouble> find_trouble(std::string_view text) noexcept {
  return Scanner(text).run();
}

}  // namespace mik::config
