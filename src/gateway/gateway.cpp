#include "gateway/gateway.hpp"

#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "base/names.hpp"
#include "gateway/json.hpp"
#include "gateway/merge.hpp"
#include "runtime/answers.hpp"

namespace mik::gateway {

namespace {

using runtime::Document;

constexpr std::size_t kKeptBytesMax = std::size_t{32} << 20;
constexpr std::size_t kWarningsMax = 20;

Document document(int status, std::string body) {
  Document made;
  made.status = status;
  made.body = std::make_shared<const std::string>(std::move(body));
  return made;
}

Document problem(int status, std::string_view code, std::string_view message) {
  std::string body = "{\"error\":";
  append_json_string(body, code);
  body += ",\"message\":";
  append_json_string(body, message);
  body += '}';
  return document(status, std::move(body));
}

// One module, as the list has it. `tenant` is empty for a platform module.
void append_handler(std::string& out, const Module& module, const std::string& tenant) {
  const bool documented = !module.document.empty();
  out += out.back() == '[' ? "{\"id\":" : ",{\"id\":";
  append_json_string(out, tenant.empty() ? module.name : tenant + "/" + module.name);
  out += ",\"type\":\"wasm\",\"attributes\":{\"name\":";
  append_json_string(out, module.name);
  fmt::format_to(std::back_inserter(out), ",\"size_bytes\":{},\"has_openapi\":{}",
                 module.size_bytes, documented);
  if (!tenant.empty()) {
    out += ",\"tenant_id\":";
    append_json_string(out, tenant);
  }
  out += "},\"links\":{\"self\":";
  const std::string in_url = base::percent_encode(tenant);
  const std::string place = tenant.empty() ? "/run/" : fmt::format("/tenant/{}/", in_url);
  append_json_string(out, place + base::percent_encode(module.name) + "/");
  if (documented) {
    out += ",\"openapi\":";
    append_json_string(
        out, tenant.empty() ? "/_mik/openapi/platform" : "/_mik/openapi/tenant/" + in_url);
  }
  out += "}}";
}

}  // namespace

Document Gateway::find_blocking(std::string_view path) {
  constexpr std::string_view kMik = "/_mik/";
  constexpr std::string_view kTenant = "openapi/tenant/";
  constexpr std::string_view kOpenApi = "/openapi/";
  if (path.starts_with(kOpenApi)) {
    return schema(path.substr(kOpenApi.size()));
  }
  const std::string_view rest = path.substr(std::min(path.size(), kMik.size()));
  if (rest == "handlers") {
    return handlers();
  }
  if (rest == "openapi/platform") {
    return platform();
  }
  if (rest.starts_with(kTenant)) {
    return tenant(rest.substr(kTenant.size()));
  }
  return problem(404, "not_found", fmt::format("Unknown gateway endpoint: {}", rest));
}

Document Gateway::handlers() const {
  std::string body = "{\"data\":[";
  const Folder platform = platform_folder(settings_);
  for (const Module& module : platform.modules) {
    append_handler(body, module, {});
  }
  std::size_t of_tenants = 0;
  for (const std::string& id : tenants(settings_)) {
    if (of_tenants == kModulesMax) {
      break;
    }
    const auto folder = tenant_folder(settings_, id);
    if (!folder.has_value()) {
      continue;
    }
    for (const Module& module : folder->modules) {
      if (of_tenants == kModulesMax) {
        break;
      }
      ++of_tenants;
      append_handler(body, module, id);
    }
  }
  fmt::format_to(std::back_inserter(body),
                 "],\"meta\":{{\"total\":{},\"platform_count\":{},\"tenant_count\":{},"
                 "\"timestamp\":\"",
                 platform.modules.size() + of_tenants, platform.modules.size(), of_tenants);
  runtime::append_rfc3339(body);
  body += "\"}}";
  return document(200, std::move(body));
}

Document Gateway::platform() { return merged(platform_folder(settings_), {}); }

Document Gateway::tenant(std::string_view raw) {
  if (raw.empty()) {
    return problem(400, "invalid_request", "Tenant ID is required");
  }
  std::string buffer;
  const std::string id(base::percent_decode(raw, buffer));
  if (!base::valid_module_name(id)) {
    return problem(400, "invalid_request", "Invalid tenant ID format");
  }
  const auto folder = tenant_folder(settings_, id);
  if (!folder.has_value()) {
    return problem(404, "not_found", fmt::format("Tenant not found: {}", id));
  }
  return merged(*folder, id);
}

Document Gateway::schema(std::string_view raw) const {
  while (raw.ends_with('/')) {
    raw.remove_suffix(1);
  }
  if (raw.empty()) {
    return problem(404, "not_found", "No module specified. Use /openapi/<module>");
  }
  std::string buffer;
  const std::string name(base::percent_decode(raw, buffer));
  const std::string root = document_root(settings_);
  if (base::valid_module_name(name) && !root.empty()) {
    auto bytes = read_document(root, name + ".openapi.json");
    if (bytes.has_value()) {
      Document found = document(200, std::move(*bytes));
      found.schema = true;
      return found;
    }
  }
  Document missing = document(404, "{\"error\":\"Schema not available\"}");
  missing.schema = true;
  return missing;
}

Document Gateway::merged(const Folder& folder, const std::string& tenant) {
  std::string stamp;
  for (const Module& module : folder.modules) {
    if (!module.document.empty()) {
      fmt::format_to(std::back_inserter(stamp), "{}/{}\n", module.name, module.stamp);
    }
  }
  Document answer;
  if (const auto kept = kept_.find(tenant); kept != kept_.end()) {
    if (kept->second.stamp == stamp) {
      answer.body = kept->second.body;
      return answer;
    }
    kept_bytes_ -= kept->second.body->size();
    kept_.erase(kept);
  }
  OpenApiMerge merge(tenant.empty() ? "/run" : "");
  bool all_read = true;
  for (const Module& module : folder.modules) {
    if (module.document.empty()) {
      continue;
    }
    const auto bytes = read_document(folder.root, module.document);
    // A file that may not be read stays so until it changes; a disk or table that is full does not.
    all_read = all_read && (bytes.has_value() || bytes.error().code() != base::ErrorCode::kSystem);
    const auto added = bytes.has_value() ? merge.add(module.name, *bytes) : bytes.error();
    if (!added.has_value() && answer.warnings.size() < kWarningsMax) {
      answer.warnings.push_back(
          fmt::format("{}/{}: {}", folder.root, module.document, added.error().to_string()));
    }
  }
  answer.body = std::make_shared<const std::string>(
      tenant.empty() ? merge.finish("Platform API", {})
                     : merge.finish(fmt::format("Tenant {} API", tenant),
                                    "/tenant/" + base::percent_encode(tenant)));
  if (!all_read) {
    return answer;  // one that cannot be read now may be there the next time
  }
  if (kept_bytes_ + answer.body->size() > kKeptBytesMax) {
    kept_.clear();
    kept_bytes_ = 0;
  }
  kept_bytes_ += answer.body->size();
  kept_[tenant] = {std::move(stamp), answer.body};
  return answer;
}

}  // namespace mik::gateway
