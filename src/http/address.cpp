#include "http/address.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>

#include "http/scan.hpp"

namespace mik::http {
namespace {

struct Block4 {
  std::uint32_t network;
  int bits;
  AddressClass what;
};

constexpr std::uint32_t quad(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
  return a << 24U | b << 16U | c << 8U | d;
}

// IANA special-purpose registry, and addresses where clouds serve metadata. The first that fits
// counts.
constexpr auto kBlocks4 = std::to_array<Block4>({
    {quad(169, 254, 169, 254), 32, AddressClass::kMetadata},  // AWS, GCP, Azure, most others
    {quad(169, 254, 170, 0), 24, AddressClass::kMetadata},    // AWS ECS and EKS credentials
    {quad(168, 63, 129, 16), 32, AddressClass::kMetadata},    // Azure wire server
    {quad(100, 100, 100, 200), 32, AddressClass::kMetadata},  // Alibaba
    {quad(192, 0, 0, 192), 32, AddressClass::kMetadata},      // Oracle
    {quad(0, 0, 0, 0), 8, AddressClass::kUnspecified},
    {quad(10, 0, 0, 0), 8, AddressClass::kPrivate},
    {quad(100, 64, 0, 0), 10, AddressClass::kPrivate},
    {quad(127, 0, 0, 0), 8, AddressClass::kLoopback},
    {quad(169, 254, 0, 0), 16, AddressClass::kLinkLocal},
    {quad(172, 16, 0, 0), 12, AddressClass::kPrivate},
    {quad(192, 0, 0, 0), 24, AddressClass::kPrivate},
    {quad(192, 168, 0, 0), 16, AddressClass::kPrivate},
    {quad(198, 18, 0, 0), 15, AddressClass::kPrivate},
    {quad(224, 0, 0, 0), 4, AddressClass::kMulticast},
    {quad(240, 0, 0, 0), 4, AddressClass::kReserved},
});

AddressClass class_of_v4(std::uint32_t address) noexcept {
  for (const Block4& block : kBlocks4) {
    if ((address ^ block.network) >> static_cast<unsigned>(32 - block.bits) == 0) {
      return block.what;
    }
  }
  return AddressClass::kPublic;
}

struct Block6 {
  std::array<std::uint8_t, 16> network;
  int bits;
  AddressClass what;
};

constexpr auto kBlocks6 = std::to_array<Block6>({
    {{}, 128, AddressClass::kUnspecified},
    {{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}, 128, AddressClass::kLoopback},
    {{0xfd, 0x00, 0x0e, 0xc2}, 32, AddressClass::kMetadata},  // AWS
    {{0xfd, 0x20, 0x00, 0xce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x02, 0x54},
     128,
     AddressClass::kMetadata},  // GCP
    {{0xfc}, 7, AddressClass::kPrivate},
    {{0xfe, 0x80}, 10, AddressClass::kLinkLocal},
    {{0xfe, 0xc0}, 10, AddressClass::kPrivate},
    {{0xff}, 8, AddressClass::kMulticast},
});

bool has_prefix(std::span<const std::uint8_t, 16> bytes, std::span<const std::uint8_t> prefix,
                int bits) noexcept {
  const auto whole = static_cast<std::size_t>(bits / 8);
  if (!std::equal(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(whole),
                  prefix.begin())) {
    return false;
  }
  const int rest = bits % 8;
  return rest == 0 || (bytes[whole] ^ prefix[whole]) >> (8 - rest) == 0;
}

// The class of the IPv4 address made of four bytes of an IPv6 address.
AddressClass carried(std::span<const std::uint8_t, 16> bytes, const std::array<std::size_t, 4>& at,
                     std::uint32_t mask = 0) noexcept {
  return class_of_v4(quad(bytes[at[0]], bytes[at[1]], bytes[at[2]], bytes[at[3]]) ^ mask);
}

// Transition mechanisms that take a packet on to an IPv4 address.
AddressClass class_of_carried(std::span<const std::uint8_t, 16> bytes) noexcept {
  constexpr std::array<std::size_t, 4> kLast = {12, 13, 14, 15};
  constexpr std::array<std::uint8_t, 12> kCompatible = {};  // RFC 4291
  constexpr std::array<std::uint8_t, 12> kTranslated = {0, 0, 0, 0,    0,
                                                        0, 0, 0, 0xff, 0xff};       // RFC 2765
  constexpr std::array<std::uint8_t, 12> kNat64 = {0, 0x64, 0xff, 0x9b};            // RFC 6052
  constexpr std::array<std::uint8_t, 6> kLocalNat64 = {0, 0x64, 0xff, 0x9b, 0, 1};  // RFC 8215
  constexpr std::array<std::uint8_t, 2> k6to4 = {0x20, 0x02};                       // RFC 3056
  constexpr std::array<std::uint8_t, 4> kTeredo = {0x20, 0x01, 0, 0};               // RFC 4380
  if (has_prefix(bytes, kCompatible, 96) || has_prefix(bytes, kTranslated, 96) ||
      has_prefix(bytes, kNat64, 96)) {
    return carried(bytes, kLast);
  }
  if (has_prefix(bytes, kLocalNat64, 48)) {
    // The operator's choice of prefix length says where the address lies (RFC 6052 section 2.2):
    // the worst counts.
    constexpr auto kPlaces = std::to_array<std::array<std::size_t, 4>>(
        {{6, 7, 9, 10}, {7, 9, 10, 11}, {9, 10, 11, 12}, {12, 13, 14, 15}});
    AddressClass worst = AddressClass::kPublic;
    for (const auto& place : kPlaces) {
      const AddressClass found = carried(bytes, place);
      // The others come by chance, from padding or from bytes that belong to another length.
      worst = found <= AddressClass::kMetadata ? std::max(worst, found) : worst;
    }
    return worst;
  }
  if (has_prefix(bytes, k6to4, 16)) {
    return carried(bytes, {2, 3, 4, 5});
  }
  if (has_prefix(bytes, kTeredo, 32)) {
    return carried(bytes, kLast, std::numeric_limits<std::uint32_t>::max());
  }
  const bool isatap = (bytes[8] & 0xfdU) == 0 && bytes[9] == 0 && bytes[10] == 0x5e &&
                      bytes[11] == 0xfe;  // RFC 5214
  return isatap ? carried(bytes, kLast) : AddressClass::kPublic;
}

// A number as strtoul(3) with base 0 reads it: decimal, octal after 0, hex after 0x.
std::optional<std::uint64_t> number(std::string_view text) noexcept {
  std::uint64_t base = 10;
  if (text.size() > 2 && text[0] == '0' && scan::lower(text[1]) == 'x') {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
  }
  if (text.empty()) {
    return std::nullopt;
  }
  std::uint64_t value = 0;
  for (const char c : text) {
    if (!scan::is(c, scan::kHex) || scan::hex_digit(c) >= base) {
      return std::nullopt;
    }
    value = value * base + scan::hex_digit(c);
    if (value > std::numeric_limits<std::uint32_t>::max()) {
      return std::nullopt;
    }
  }
  return value;
}

// As inet_aton(3): a, a.b, a.b.c or a.b.c.d, where the last number fills what is left of 32 bits.
std::optional<std::uint32_t> parse_v4(std::string_view text) noexcept {
  std::uint64_t address = 0;
  for (std::uint32_t parts = 0; parts < 4; ++parts) {
    const std::size_t dot = text.find('.');
    const std::optional<std::uint64_t> value = number(text.substr(0, dot));
    if (!value.has_value()) {
      return std::nullopt;
    }
    const std::uint32_t left = 32 - 8 * parts;
    if (dot == std::string_view::npos) {
      if (*value >> left != 0) {
        return std::nullopt;
      }
      return static_cast<std::uint32_t>(address | *value);
    }
    if (*value > 255) {
      return std::nullopt;
    }
    address |= *value << (left - 8);
    text.remove_prefix(dot + 1);
  }
  return std::nullopt;
}

}  // namespace

IpAddress IpAddress::v4(std::uint32_t address) noexcept {
  IpAddress result;
  result.v4_ = true;
  for (std::size_t i = 0; i < 4; ++i) {
    result.bytes_[15 - i] = static_cast<std::uint8_t>(address >> (8 * i));
  }
  return result;
}

IpAddress IpAddress::v6(const std::array<std::uint8_t, 16>& bytes) noexcept {
  constexpr std::array<std::uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (has_prefix(bytes, kMapped, 96)) {
    return v4(quad(bytes[12], bytes[13], bytes[14], bytes[15]));
  }
  IpAddress result;
  result.bytes_ = bytes;
  return result;
}

std::optional<IpAddress> IpAddress::from_sockaddr(const sockaddr& address) noexcept {
  if (address.sa_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(address);
    return v4(ntohl(in.sin_addr.s_addr));
  }
  if (address.sa_family == AF_INET6) {
    const auto& in6 = reinterpret_cast<const sockaddr_in6&>(address);
    std::array<std::uint8_t, 16> bytes{};
    std::memcpy(bytes.data(), &in6.sin6_addr, bytes.size());
    return v6(bytes);
  }
  return std::nullopt;
}

std::optional<IpAddress> IpAddress::parse(std::string_view host) noexcept {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (host.find(':') != std::string_view::npos) {
    std::array<std::uint8_t, 16> bytes{};
    if (host.size() >= text.size() || host.find('\0') != std::string_view::npos) {
      return std::nullopt;
    }
    std::memcpy(text.data(), host.data(), host.size());
    if (inet_pton(AF_INET6, text.data(), bytes.data()) != 1) {
      return std::nullopt;
    }
    return v6(bytes);
  }
  if (host.ends_with('.')) {
    host.remove_suffix(1);
  }
  const std::optional<std::uint32_t> address = parse_v4(host);
  return address.has_value() ? std::optional(v4(*address)) : std::nullopt;
}

std::optional<IpAddress> IpAddress::parse_plain(std::string_view text) noexcept {
  std::array<char, INET6_ADDRSTRLEN> copy{};
  if (text.size() >= copy.size() || text.find('\0') != std::string_view::npos) {
    return std::nullopt;
  }
  std::ranges::copy(text, copy.begin());
  std::array<std::uint8_t, 16> bytes{};
  if (inet_pton(AF_INET6, copy.data(), bytes.data()) == 1) {
    return v6(bytes);
  }
  in_addr in{};
  if (inet_pton(AF_INET, copy.data(), &in) == 1) {
    return v4(ntohl(in.s_addr));
  }
  return std::nullopt;
}

IpAddress IpAddress::network(int bits) const noexcept {
  IpAddress first = *this;
  auto left = static_cast<std::size_t>(v4_ ? bits + 96 : bits);
  for (std::uint8_t& byte : first.bytes_) {
    const std::size_t kept = std::min<std::size_t>(left, 8);
    byte = static_cast<std::uint8_t>(byte & (0xff00U >> kept));
    left -= kept;
  }
  return first;
}

AddressClass IpAddress::address_class() const noexcept {
  if (v4_) {
    return class_of_v4(quad(bytes_[12], bytes_[13], bytes_[14], bytes_[15]));
  }
  for (const Block6& block : kBlocks6) {
    if (has_prefix(bytes_, block.network, block.bits)) {
      return block.what;
    }
  }
  return class_of_carried(bytes_);
}

std::string IpAddress::to_string() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const void* from = v4_ ? &bytes_[12] : bytes_.data();
  inet_ntop(v4_ ? AF_INET : AF_INET6, from, text.data(), text.size());
  return text.data();
}

}  // namespace mik::http
