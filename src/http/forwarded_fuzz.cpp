// Forwarded and its kin. Input: lines; the first is a trusted network, the others fields. Whatever
// they say, the client is an address that stands in them or the peer, and X-Forwarded-For agrees
// with a slow reading, unless Forwarded contradicts it.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "http/forwarded.hpp"
#include "http/request_grammar.hpp"

namespace {

using namespace mik::http;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "forwarded fields are read wrongly: %s\n", what);
    std::abort();
  }
}

std::string trimmed(std::string text) {
  const std::size_t first = text.find_first_not_of(" \t");
  if (first == std::string::npos) {
    return {};
  }
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

// The address that a hop is, by other means than the code under test.
std::optional<IpAddress> address_of(std::string hop) {
  if (hop.starts_with('[')) {
    const std::size_t end = hop.find(']');
    if (end == std::string::npos || hop.find(':') > end) {
      return std::nullopt;
    }
    const std::string behind = hop.substr(end + 1);
    if (!behind.empty() && (behind[0] != ':' || behind.size() < 2 || behind.size() > 6 ||
                            behind.find_first_not_of("0123456789", 1) != std::string::npos)) {
      return std::nullopt;
    }
    return IpAddress::parse_plain(hop.substr(1, end - 1));
  }
  const std::vector<std::string> parts = testing::split(hop, ':');
  if (parts.size() == 2) {
    if (parts[1].empty() || parts[1].size() > 5 ||
        parts[1].find_first_not_of("0123456789") != std::string::npos) {
      return std::nullopt;
    }
    hop = parts[0];
  }
  return IpAddress::parse_plain(hop);
}

// Joins the lines, splits at commas, looks from the right.
std::optional<IpAddress> slow_client(const std::vector<Field>& fields,
                                     const TrustedProxies& proxies) {
  std::string joined;
  for (const Field& field : fields) {
    if (equals_lower(field.name, "x-forwarded-for")) {
      joined.append(field.value).append(",");
    }
  }
  std::vector<std::string> hops = testing::split(joined, ',');
  std::optional<IpAddress> client;
  while (!hops.empty()) {
    const std::string hop = trimmed(hops.back());
    hops.pop_back();
    if (hop.empty()) {
      continue;
    }
    const std::optional<IpAddress> address = address_of(hop);
    if (!address.has_value()) {
      break;
    }
    client = address;
    if (!proxies.contains(*address)) {
      break;
    }
  }
  return client;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::string> lines =
      testing::split(std::string_view(reinterpret_cast<const char*>(data), size), '\n');
  const std::vector<std::string> entries = {lines.front()};
  const mik::base::Result<TrustedProxies> compiled = TrustedProxies::compile(entries);
  require(compiled.has_value() || !compiled.error().help().empty(), "an error without help");
  const TrustedProxies proxies = compiled.has_value() ? *compiled : TrustedProxies();

  std::vector<Field> fields;
  bool has_list = false;
  bool has_standard = false;
  for (std::size_t i = 1; i < lines.size(); ++i) {
    const std::string_view line = lines[i];
    const std::size_t colon = line.find(':');
    if (colon != std::string_view::npos) {
      fields.push_back({line.substr(0, colon), line.substr(colon + 1)});
      has_list = has_list || equals_lower(fields.back().name, "x-forwarded-for");
      has_standard = has_standard || equals_lower(fields.back().name, "forwarded");
    }
  }
  RequestHead head;
  head.fields = fields;

  const Peer stranger{.address = "203.0.113.99", .port = 1};
  if (!proxies.contains(stranger)) {
    const ForwardedView view = forwarded(head, stranger, proxies);
    require(view.client == stranger.address && !view.forwarded &&
                view.scheme == ForwardedScheme::kNotSaid,
            "a stranger is believed");
  }
  const Peer peer{.address = "unix:", .port = 0};
  const ForwardedView view = forwarded(head, peer, proxies);
  const std::optional<IpAddress> client = IpAddress::parse_plain(view.client);
  require(client.has_value() || view.client == "unix:", "a client that is no address");
  require(view.forwarded || (view.client == "unix:" && view.scheme == ForwardedScheme::kNotSaid),
          "something from nothing");
  if (has_list) {
    const std::optional<IpAddress> said = slow_client(fields, proxies);
    require(client == said || (has_standard && !client.has_value()), "X-Forwarded-For");
  }
  return 0;
}
