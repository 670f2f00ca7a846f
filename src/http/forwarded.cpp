#include "http/forwarded.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "http/scan.hpp"

namespace mik::http {

namespace {

constexpr std::string_view kUnix = "unix:";
// Elements of one Forwarded line that are looked at, the last ones.
constexpr std::size_t kElementsMax = 32;

std::string_view trim(std::string_view text) noexcept {
  while (!text.empty() && scan::is_blank(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && scan::is_blank(text.back())) {
    text.remove_suffix(1);
  }
  return text;
}

// Takes the last element off a comma-separated list. Empty ones are none (RFC 9110 section
// 5.6.1.2). Nothing: there is no more.
std::optional<std::string_view> take_last(std::string_view& list) noexcept {
  while (!list.empty()) {
    const std::size_t comma = list.rfind(',');
    const std::string_view element =
        trim(comma == std::string_view::npos ? list : list.substr(comma + 1));
    list = comma == std::string_view::npos ? std::string_view() : list.substr(0, comma);
    if (!element.empty()) {
      return element;
    }
  }
  return std::nullopt;
}

struct Hop {
  std::string_view text;
  IpAddress address;
};

bool is_port(std::string_view text) noexcept {
  return !text.empty() && text.size() <= 5 && std::ranges::all_of(text, scan::is_digit);
}

// "192.0.2.1", "192.0.2.1:80", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80". Names that stand
// for somebody ("unknown", "_gateway") are no address.
std::optional<Hop> parse_hop(std::string_view text) noexcept {
  if (text.starts_with('[')) {
    const std::size_t end = text.find(']');
    if (end == std::string_view::npos) {
      return std::nullopt;
    }
    const std::string_view behind = text.substr(end + 1);
    if (!behind.empty() && !(behind.starts_with(':') && is_port(behind.substr(1)))) {
      return std::nullopt;
    }
    text = text.substr(1, end - 1);
    if (text.find(':') == std::string_view::npos) {
      return std::nullopt;
    }
  } else if (const std::size_t colon = text.find(':');
             colon != std::string_view::npos && colon == text.rfind(':')) {
    if (!is_port(text.substr(colon + 1))) {
      return std::nullopt;
    }
    text = text.substr(0, colon);
  }
  const std::optional<IpAddress> address = IpAddress::parse_plain(text);
  if (!address.has_value()) {
    return std::nullopt;
  }
  // A mapped address is the IPv4 address, in words too.
  if (const std::size_t colon = text.rfind(':'); colon != std::string_view::npos &&
                                                 address->is_v4() &&
                                                 text.find('.') != std::string_view::npos) {
    text = text.substr(colon + 1);
  }
  return Hop{text, *address};
}

// The way back towards the client, hop by hop.
class Walk {
 public:
  Walk(const Peer& peer, const TrustedProxies& proxies) noexcept
      : proxies_(proxies), client_(peer.address) {}

  // Further away by a hop. False: it ends here.
  bool step(std::string_view hop) noexcept {
    const std::optional<Hop> parsed = parse_hop(hop);
    if (!parsed.has_value()) {
      return false;
    }
    client_ = parsed->text;
    return proxies_.contains(parsed->address);
  }
  std::string_view client() const noexcept { return client_; }

 private:
  const TrustedProxies& proxies_;
  std::string_view client_;
};

bool same_address(std::string_view a, std::string_view b) noexcept {
  return a == b || IpAddress::parse_plain(a) == IpAddress::parse_plain(b);
}

ForwardedScheme scheme_of(std::string_view text) noexcept {
  return equals_lower(text, "https") || equals_lower(text, "wss") ? ForwardedScheme::kHttps
                                                                  : ForwardedScheme::kHttp;
}

// Which of the fields there are.
struct Seen {
  bool for_list = false;
  bool proto = false;
  bool standard = false;
  bool real_ip = false;
  bool other = false;  // X-Forwarded-Host and the like
  bool any() const noexcept { return for_list || proto || standard || real_ip || other; }
};

Seen look(std::span<const Field> fields) noexcept {
  constexpr std::string_view kFamily = "x-forwarded-";
  Seen seen;
  for (const Field& field : fields) {
    const std::size_t size = field.name.size();
    if (size == 9) {
      seen.standard = seen.standard || equals_lower(field.name, "forwarded");
      seen.real_ip = seen.real_ip || equals_lower(field.name, "x-real-ip");
    } else if (size > kFamily.size() &&
               equals_lower(field.name.substr(0, kFamily.size()), kFamily)) {
      const std::string_view rest = field.name.substr(kFamily.size());
      seen.for_list = seen.for_list || equals_lower(rest, "for");
      seen.proto = seen.proto || equals_lower(rest, "proto");
      seen.other = true;
    }
  }
  return seen;
}

// The `back`-th element from the right of all lines together, or the leftmost when there are fewer.
std::string_view element_from_right(std::span<const Field> fields, std::string_view name,
                                    std::size_t back) noexcept {
  std::string_view found;
  for (std::size_t i = fields.size(); i > 0; --i) {
    if (!equals_lower(fields[i - 1].name, name)) {
      continue;
    }
    std::string_view list = fields[i - 1].value;
    while (const auto element = take_last(list)) {
      found = *element;
      if (back-- == 0) {
        return found;
      }
    }
  }
  return found;
}

ForwardedView read_x_forwarded(std::span<const Field> fields, const Seen& seen,
                               Walk walk) noexcept {
  std::size_t passed = 0;  // trusted hops between us and the client
  for (std::size_t i = fields.size(); seen.for_list && i > 0; --i) {
    if (!equals_lower(fields[i - 1].name, "x-forwarded-for")) {
      continue;
    }
    std::string_view list = fields[i - 1].value;
    std::optional<std::string_view> hop = take_last(list);
    while (hop.has_value() && walk.step(*hop)) {
      ++passed;
      hop = take_last(list);
    }
    if (hop.has_value()) {
      break;
    }
  }
  ForwardedView view{.client = walk.client(), .forwarded = true};
  if (seen.proto) {
    view.scheme = scheme_of(element_from_right(fields, "x-forwarded-proto", passed));
  }
  return view;
}

// forwarded-element of RFC 7239 section 4.
struct Element {
  std::string_view from;  // of `for`, without quotes; empty: not said
  std::string_view proto;
  bool valid = true;
};

// token or quoted-string at the front of `rest`; without quotes, escapes as they are.
std::optional<std::string_view> take_value(std::string_view& rest) noexcept {
  if (!rest.starts_with('"')) {
    const char* const end = scan::skip_token(rest.data(), rest.data() + rest.size());
    const auto size = static_cast<std::size_t>(end - rest.data());
    const std::string_view value = rest.substr(0, size);
    rest.remove_prefix(size);
    return value.empty() ? std::nullopt : std::optional(value);
  }
  for (std::size_t i = 1; i < rest.size(); ++i) {
    if (rest[i] == '\\') {
      ++i;
    } else if (rest[i] == '"') {
      const std::string_view value = rest.substr(1, i - 1);
      rest.remove_prefix(i + 1);
      return value;
    }
  }
  return std::nullopt;
}

// One name=value. False: it is none, or the second of its name.
bool take_pair(std::string_view& rest, Element& element) noexcept {
  const char* const end = scan::skip_token(rest.data(), rest.data() + rest.size());
  const std::string_view name = rest.substr(0, static_cast<std::size_t>(end - rest.data()));
  rest.remove_prefix(name.size());
  if (name.empty() || !rest.starts_with('=')) {
    return false;
  }
  rest.remove_prefix(1);
  const std::optional<std::string_view> value = take_value(rest);
  if (!value.has_value()) {
    return false;
  }
  std::string_view* const place = equals_lower(name, "for")     ? &element.from
                                  : equals_lower(name, "proto") ? &element.proto
                                                                : nullptr;
  if (place != nullptr) {
    if (place->data() != nullptr) {
      return false;
    }
    *place = *value;
  }
  return true;
}

// The last elements of a line, in order.
class Elements {
 public:
  explicit Elements(std::string_view line) noexcept {
    while (!line.empty()) {
      Element element;
      bool any = false;
      parse(line, element, any);
      if (any) {
        ring_[count_++ % kElementsMax] = element;
      }
    }
  }
  // The `back`-th from the right; nullptr: there is none, or it was too many ago.
  const Element* from_right(std::size_t back) const noexcept {
    return back < std::min(count_, kElementsMax) ? &ring_[(count_ - 1 - back) % kElementsMax]
                                                 : nullptr;
  }
  bool whole() const noexcept { return count_ <= kElementsMax; }

 private:
  // Up to and with the next comma. What is wrong goes up to the next comma, wherever that is.
  static void parse(std::string_view& line, Element& element, bool& any) noexcept {
    while (!line.empty()) {
      while (!line.empty() && (scan::is_blank(line.front()) || line.front() == ';')) {
        line.remove_prefix(1);
      }
      if (line.empty() || line.front() == ',') {
        break;
      }
      any = true;
      if (!take_pair(line, element)) {
        element.valid = false;
      }
      while (!line.empty() && scan::is_blank(line.front())) {
        line.remove_prefix(1);
      }
      if (!line.empty() && line.front() != ';' && line.front() != ',') {
        element.valid = false;
      }
      if (!element.valid) {
        line.remove_prefix(std::min(line.find(','), line.size()));
      }
    }
    line.remove_prefix(line.empty() ? 0 : 1);
  }

  std::array<Element, kElementsMax> ring_;
  std::size_t count_ = 0;
};

// False: the way ends in this line.
bool read_forwarded_line(std::string_view line, Walk& walk, ForwardedView& view) noexcept {
  const Elements elements(line);
  for (std::size_t back = 0;; ++back) {
    const Element* const element = elements.from_right(back);
    if (element == nullptr) {
      return elements.whole();
    }
    if (!element->valid) {
      return false;
    }
    if (!element->proto.empty()) {
      view.scheme = scheme_of(element->proto);
    }
    if (!walk.step(element->from)) {
      return false;
    }
  }
}

ForwardedView read_forwarded(std::span<const Field> fields, Walk walk) noexcept {
  ForwardedView view{.client = {}, .forwarded = true};
  for (std::size_t i = fields.size(); i > 0; --i) {
    if (equals_lower(fields[i - 1].name, "forwarded") &&
        !read_forwarded_line(fields[i - 1].value, walk, view)) {
      break;
    }
  }
  view.client = walk.client();
  return view;
}

// One address, of whoever set it last.
ForwardedView read_real_ip(std::span<const Field> fields, const ForwardedView& view,
                           Walk walk) noexcept {
  walk.step(trim(element_from_right(fields, "x-real-ip", 0)));
  return {.client = walk.client(), .scheme = view.scheme, .forwarded = true};
}

base::Error no_proxy(std::string_view text, std::string_view why, std::string help) {
  return base::Error(base::ErrorCode::kConfig, fmt::format("trusted_proxies: \"{}\" {}", text, why))
      .with_help(std::move(help));
}

}  // namespace

base::Result<TrustedProxies> TrustedProxies::compile(std::span<const std::string> entries) {
  TrustedProxies proxies;
  for (const std::string& entry : entries) {
    MIK_TRY_ASSIGN(const Network network, parse(entry));
    proxies.networks_.push_back(network);
  }
  return proxies;
}

base::Result<TrustedProxies::Network> TrustedProxies::parse(const std::string& text) {
  constexpr std::string_view kForms =
      "accepted are addresses and networks: \"192.0.2.1\", \"10.0.0.0/8\", \"2001:db8::/32\"";
  const std::size_t slash = text.find('/');
  const std::string_view written = std::string_view(text).substr(0, slash);
  const std::optional<IpAddress> address = IpAddress::parse_plain(written);
  if (!address.has_value()) {
    return no_proxy(text, "is not an IP address or network", std::string(kForms));
  }
  const bool as_v6 = written.find(':') != std::string_view::npos;
  std::uint64_t bits = as_v6 ? 128 : 32;
  if (slash != std::string::npos) {
    const std::string_view digits = std::string_view(text).substr(slash + 1);
    const std::uint64_t most = bits;
    if (digits.size() > 3 || !scan::parse_length(digits, bits) || bits > most) {
      return no_proxy(text, fmt::format("has no prefix length from 0 to {}", most),
                      std::string(kForms));
    }
  }
  if (as_v6 && address->is_v4()) {
    if (bits < 96) {
      return no_proxy(text, "is IPv4 in part only",
                      "write IPv4 networks as \"10.0.0.0/8\", and IPv6 networks apart from them");
    }
    bits -= 96;
  }
  const Network network{*address, static_cast<int>(bits)};
  if (const IpAddress first = address->network(network.bits); first != *address) {
    return no_proxy(text, "has bits behind its prefix",
                    fmt::format("write \"{}/{}\", or the address alone", first.to_string(), bits));
  }
  return network;
}

bool TrustedProxies::contains(const IpAddress& address) const noexcept {
  return std::ranges::any_of(networks_, [&address](const Network& network) {
    return address.is_v4() == network.address.is_v4() &&
           address.network(network.bits) == network.address;
  });
}

bool TrustedProxies::contains(const Peer& peer) const noexcept {
  if (peer.address == kUnix) {
    return true;
  }
  const std::optional<IpAddress> address = IpAddress::parse_plain(peer.address);
  return address.has_value() && contains(*address);
}

ForwardedView forwarded(const RequestHead& head, const Peer& peer,
                        const TrustedProxies& proxies) noexcept {
  ForwardedView view{.client = peer.address};
  const Seen seen = look(head.fields);
  if (!seen.any() || !proxies.contains(peer)) {
    return view;
  }
  const Walk walk(peer, proxies);
  if (!seen.standard) {
    view = read_x_forwarded(head.fields, seen, walk);
    return seen.real_ip && !seen.for_list ? read_real_ip(head.fields, view, walk) : view;
  }
  view = read_forwarded(head.fields, walk);
  if (seen.for_list || seen.proto) {
    // Proxies write one kind and pass on the other: one of the two is the client's own word.
    const ForwardedView other = read_x_forwarded(head.fields, seen, walk);
    if (!same_address(view.client, other.client)) {
      view.client = peer.address;
    }
    if (view.scheme != other.scheme) {
      view.scheme = ForwardedScheme::kNotSaid;
    }
  }
  return view;
}

bool is_https(const ForwardedView& view, const Exchange& exchange) noexcept {
  return view.scheme == ForwardedScheme::kNotSaid ? exchange.secure()
                                                  : view.scheme == ForwardedScheme::kHttps;
}

}  // namespace mik::http
