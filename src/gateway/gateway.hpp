// Answers /_mik/ and /openapi/ (runtime.md 12) from what lies in the folders of modules. Called on
// the pool, one call at a time.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "config/settings.hpp"
#include "gateway/folder.hpp"
#include "runtime/documents.hpp"

namespace mik::gateway {

class Gateway final : public runtime::Documents {
 public:
  explicit Gateway(const config::Settings& settings) : settings_(settings) {}

  runtime::Document find_blocking(std::string_view path) override;

 private:
  struct Merged {
    std::string stamp;
    std::shared_ptr<const std::string> body;
  };

  runtime::Document handlers() const;
  runtime::Document platform();
  runtime::Document tenant(std::string_view raw);
  runtime::Document schema(std::string_view raw) const;
  runtime::Document merged(const Folder& folder, const std::string& tenant);

  const config::Settings& settings_;
  std::map<std::string, Merged> kept_;  // by tenant; "" for the platform
  std::size_t kept_bytes_ = 0;
};

}  // namespace mik::gateway
