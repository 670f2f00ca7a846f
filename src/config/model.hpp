// Every section and every key of mik.toml, once: from this table come the reader, the checks,
// `mik config show` and docs/reference/config.md. Immutable: thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "config/settings.hpp"

namespace mik::config {

enum class SectionId : std::uint8_t {
  kProject,
  kServer,
  kModules,
  kTenants,
  kRoutes,
  kBreaker,
  kTracing,
  kComposition,
  kLb,
  kDependencies,
  kDevDependencies,
  kSchedules,
};

enum class Shape : std::uint8_t {
  kOne,    // [server]
  kNamed,  // [modules.NAME]
  kList,   // [[routes]]
};

struct Section {
  SectionId id;
  std::string_view name;
  Shape shape;
  std::string_view meaning;
};

enum class Type : std::uint8_t {
  kBool,
  kWhole,    // within min and max
  kNumber,   // within min and max
  kText,     // by Check
  kPath,     // absolute once resolved
  kTexts,    // each by Check
  kPairs,    // names and texts
  kPersons,  // tables of name and email, kept as "name <email>"
};

// What a text must be, besides a text.
enum class Check : std::uint8_t {
  kAny,
  kNotEmpty,
  kChoice,       // one of Key::choices
  kProjectName,  // runtime.md 2.6
  kVersion,      // three parts of semantic versioning
  kModule,       // a module's name
  kTenant,       // a tenant's name
  kBind,         // ADDRESS:PORT or unix:PATH
  kNetwork,      // an address or CIDR
  kHostPattern,  // as http_allowed takes
  kRouteHost,    // "api.example.com", "*.example.com"
  kRoutePath,    // begins with "/"
  kUrl,          // http:// or https://
};

// What a value is put into: those that its section has.
struct Target {
  Settings* settings = nullptr;
  GuestSettings* guest = nullptr;
  TenantSettings* tenant = nullptr;
  RouteSettings* route = nullptr;
};

struct Value;

struct Key {
  SectionId section;
  std::string_view name;
  Type type;
  std::string_view fallback;  // as TOML; empty: none
  std::string_view meaning;
  // Puts the value into the settings; null: read and checked, without effect on the server.
  void (*apply)(const Target&, const Value&) = nullptr;
  std::uint64_t min = 0;
  std::uint64_t max = 0;
  Check check = Check::kAny;
  std::string_view choices = {};    // "auto|text|json"
  bool required = false;            // in each table of its section
  std::string_view automatic = {};  // what 0 means
  bool later = false;               // kept in the settings, but nothing acts on it yet
};

std::span<const Section> sections() noexcept;
std::span<const Key> keys() noexcept;

const Section& section(SectionId id) noexcept;
const Section* find_section(std::string_view name) noexcept;
const Key* find_key(SectionId section, std::string_view name) noexcept;

}  // namespace mik::config
