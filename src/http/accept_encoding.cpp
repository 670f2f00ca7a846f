#include "http/accept_encoding.hpp"

#include <array>
#include <optional>

#include "http/list_field.hpp"

namespace mik::http {

namespace {

constexpr std::uint16_t kFull = 1000;

// qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] ), RFC 9110 section 12.4.2.
std::optional<std::uint16_t> quality(std::string_view text) noexcept {
  if (text.empty() || (text[0] != '0' && text[0] != '1')) {
    return std::nullopt;
  }
  unsigned value = text[0] == '1' ? kFull : 0u;
  text.remove_prefix(1);
  if (!text.empty()) {
    if (text[0] != '.' || text.size() > 4) {
      return std::nullopt;
    }
    unsigned scale = 100;
    for (const char c : text.substr(1)) {
      if (c < '0' || c > '9') {
        return std::nullopt;
      }
      value += static_cast<unsigned>(c - '0') * scale;
      scale /= 10;
    }
  }
  return value > kFull ? std::nullopt : std::optional(static_cast<std::uint16_t>(value));
}

// weight = OWS ";" OWS "q=" qvalue; `text` is what stands behind the ";".
std::optional<std::uint16_t> weight(std::string_view text) noexcept {
  text = trim_blanks(text);
  if (text.size() < 2 || (text[0] | 0x20) != 'q' || text[1] != '=') {
    return std::nullopt;
  }
  return quality(text.substr(2));
}

}  // namespace

std::string_view coding_name(Coding coding) noexcept {
  constexpr std::array<std::string_view, 4> kNames = {"", "gzip", "br", "zstd"};
  return kNames[static_cast<std::size_t>(coding)];
}

std::uint16_t AcceptedCodings::of(Coding coding) const noexcept {
  switch (coding) {
    case Coding::kGzip:
      return gzip;
    case Coding::kBrotli:
      return brotli;
    case Coding::kZstd:
      return zstd;
    case Coding::kIdentity:
      return identity;
  }
  return 0;
}

AcceptedCodings accepted_codings(std::span<const Field> fields) noexcept {
  std::optional<std::uint16_t> gzip;
  std::optional<std::uint16_t> brotli;
  std::optional<std::uint16_t> zstd;
  std::uint16_t identity = 0;
  std::uint16_t any = 0;
  for (const Field& field : fields) {
    if (!equals_lower(field.name, "accept-encoding")) {
      continue;
    }
    std::string_view rest = field.value;
    while (!rest.empty()) {
      const std::string_view item = take_item(rest);
      const std::size_t semicolon = item.find(';');
      const std::string_view name = trim_blanks(item.substr(0, semicolon));
      const std::optional<std::uint16_t> q = semicolon == std::string_view::npos
                                                 ? std::optional(kFull)
                                                 : weight(item.substr(semicolon + 1));
      if (!q.has_value()) {
        continue;
      }
      if (equals_lower(name, "gzip") || equals_lower(name, "x-gzip")) {
        gzip = q;
      } else if (equals_lower(name, "br")) {
        brotli = q;
      } else if (equals_lower(name, "zstd")) {
        zstd = q;
      } else if (equals_lower(name, "identity")) {
        identity = *q;
      } else if (name == "*") {
        any = *q;
      }
    }
  }
  return {gzip.value_or(any), brotli.value_or(any), zstd.value_or(any), identity};
}

Coding best_coding(const AcceptedCodings& accepted, std::span<const Coding> offered) noexcept {
  Coding best = Coding::kIdentity;
  std::uint16_t best_quality = 0;
  for (const Coding coding : offered) {
    if (accepted.of(coding) > best_quality) {
      best = coding;
      best_quality = accepted.of(coding);
    }
  }
  return best_quality >= accepted.identity ? best : Coding::kIdentity;
}

}  // namespace mik::http
