#include "runtime/artefact_store.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace mik::runtime {

namespace {

using base::Error;
using base::ErrorCode;
using base::Fd;
using base::Result;

constexpr std::size_t kMacBytes = 32;
// After the code: the MAC, then this.
constexpr std::string_view kMagic = "mik-artefact-01\n";
constexpr std::size_t kTrailerBytes = kMacBytes + kMagic.size();
constexpr std::size_t kBlock = 256 * 1024;

using Mac = std::array<std::uint8_t, kMacBytes>;

// HMAC-SHA-256 (RFC 2104) over the artefact's name and its bytes.
class Hmac {
 public:
  Hmac(const std::array<std::uint8_t, 32>& key, std::string_view name) {
    EVP_MAC* mac = EVP_MAC_fetch(nullptr, "HMAC", nullptr);
    context_ = EVP_MAC_CTX_new(mac);
    EVP_MAC_free(mac);
    char digest[] = "SHA256";
    const std::array<OSSL_PARAM, 2> params = {OSSL_PARAM_construct_utf8_string("digest", digest, 0),
                                              OSSL_PARAM_construct_end()};
    ok_ = context_ != nullptr && EVP_MAC_init(context_, key.data(), key.size(), params.data()) == 1;
    update(name);
  }
  Hmac(const Hmac&) = delete;
  Hmac& operator=(const Hmac&) = delete;
  ~Hmac() { EVP_MAC_CTX_free(context_); }

  void update(std::string_view bytes) {
    ok_ = ok_ && EVP_MAC_update(context_, reinterpret_cast<const unsigned char*>(bytes.data()),
                                bytes.size()) == 1;
  }
  bool finish(Mac& mac) {
    std::size_t size = 0;
    return ok_ && EVP_MAC_final(context_, mac.data(), &size, mac.size()) == 1 && size == mac.size();
  }

 private:
  EVP_MAC_CTX* context_ = nullptr;
  bool ok_ = false;
};

Error crypto_failed() { return Error(ErrorCode::kInternal, "OpenSSL refused SHA-256"); }

// A folder that only we can enter. What a stranger has made there first is refused.
Result<void> private_folder(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) {
    return Error::from_errno(fmt::format("cannot make {}", path), errno);
  }
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) {
    return Error::from_errno(fmt::format("cannot look at {}", path), errno);
  }
  if (!S_ISDIR(info.st_mode) || info.st_uid != ::geteuid()) {
    return Error(ErrorCode::kUntrusted, fmt::format("{} is not a folder of ours", path))
        .with_help("remove it or set MIK_HOME to a folder that belongs to this user");
  }
  if ((info.st_mode & 0077) != 0 && ::chmod(path.c_str(), 0700) != 0) {
    return Error::from_errno(fmt::format("cannot make {} private", path), errno);
  }
  return {};
}

bool ours_alone(int fd) {
  struct stat info{};
  return ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_uid == ::geteuid() &&
         (info.st_mode & 0022) == 0;
}

Result<void> write_all(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n <= 0) {
      return Error::from_errno(fmt::format("cannot write {}", path), errno);
    }
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

// Of writers that were killed: tens of megabytes each.
void remove_leftovers(const std::string& folder, std::string_view prefix) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (std::string_view(entry.path().filename().native()).starts_with(prefix)) {
      ::unlink(entry.path().c_str());
    }
  }
}

using SecretKey = std::array<std::uint8_t, 32>;

Result<SecretKey> read_key(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) {
    if (errno == ENOENT) {
      return Error(ErrorCode::kNotFound, path);
    }
    return Error::from_errno(fmt::format("cannot open {}", path), errno);
  }
  struct stat info{};
  SecretKey key{};
  if (::fstat(fd.get(), &info) != 0 || info.st_uid != ::geteuid() || (info.st_mode & 0077) != 0 ||
      ::read(fd.get(), key.data(), key.size()) != static_cast<ssize_t>(key.size())) {
    return Error(ErrorCode::kUntrusted,
                 fmt::format("{} must be a file of 32 bytes that only this user can read", path))
        .with_help("remove it: a new key is made, and components are compiled again");
  }
  return key;
}

// Made under another name and linked, so that it is there whole or not at all, and the first of
// several wins.
Result<SecretKey> make_key(const std::string& path) {
  SecretKey key{};
  if (::getrandom(key.data(), key.size(), 0) != static_cast<ssize_t>(key.size())) {
    return Error::from_errno("getrandom", errno);
  }
  // Random and exclusive: containers that share the folder have processes of the same number.
  std::uint64_t suffix = 0;
  if (::getrandom(&suffix, sizeof suffix, 0) != static_cast<ssize_t>(sizeof suffix)) {
    return Error::from_errno("getrandom", errno);
  }
  const std::string temporary = fmt::format("{}.{:016x}", path, suffix);
  Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) {
    return Error::from_errno(fmt::format("cannot make {}", temporary), errno);
  }
  MIK_TRY(write_all(fd.get(), {reinterpret_cast<const char*>(key.data()), key.size()}, temporary));
  ::fsync(fd.get());
  const int linked = ::link(temporary.c_str(), path.c_str());
  const int error = errno;
  ::unlink(temporary.c_str());
  if (linked != 0 && error != EEXIST) {
    return Error::from_errno(fmt::format("cannot make {}", path), error);
  }
  return read_key(path);
}

}  // namespace

Result<ArtefactStore> ArtefactStore::open(const std::string& state_dir) {
  if (::mkdir(state_dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return Error::from_errno(fmt::format("cannot make the state folder {}", state_dir), errno)
        .with_help("set MIK_HOME to a folder that this user can write");
  }
  const std::string cache = state_dir + "/cache";
  MIK_TRY(private_folder(cache));
  const std::string folder = cache + "/aot";
  MIK_TRY(private_folder(folder));
  const std::string key_path = cache + "/key";
  Result<SecretKey> key = read_key(key_path);
  if (!key.has_value() && key.error().code() == ErrorCode::kNotFound) {
    key = make_key(key_path);
  }
  if (!key.has_value()) {
    return std::move(key).error();
  }
  return ArtefactStore(folder, *key);
}

Result<ArtefactStore::Name> ArtefactStore::name_of(
    std::string_view wasm, const std::array<std::uint8_t, 32>& engine_key) const {
  shared::Digest digest{};
  unsigned size = 0;
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  const bool ok = context != nullptr && EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1 &&
                  EVP_DigestUpdate(context, engine_key.data(), engine_key.size()) == 1 &&
                  EVP_DigestUpdate(context, wasm.data(), wasm.size()) == 1 &&
                  EVP_DigestFinal_ex(context, digest.data(), &size) == 1;
  EVP_MD_CTX_free(context);
  if (!ok) {
    return crypto_failed();
  }
  return name(digest);
}

ArtefactStore::Name ArtefactStore::name(const shared::Digest& digest) {
  Name name;
  name.digest = digest;
  for (const std::uint8_t byte : digest) {
    name.hex += fmt::format("{:02x}", byte);
  }
  return name;
}

std::string ArtefactStore::path_of(const Name& name) const {
  return fmt::format("{}/{}.aot", folder_, name.hex);
}

Result<Fd> ArtefactStore::open_verified(const Name& name) const {
  const std::string path = path_of(name);
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) {
    return Error(ErrorCode::kNotFound, path);
  }
  const auto untrusted = [&](std::string_view why) {
    return Error(ErrorCode::kUntrusted, fmt::format("{} {}", path, why));
  };
  struct stat info{};
  if (!ours_alone(fd.get()) || ::fstat(fd.get(), &info) != 0) {
    return untrusted("is not a file that only this user can write");
  }
  const auto size = static_cast<std::size_t>(info.st_size);
  if (size < kTrailerBytes) {
    return untrusted("is too short to be an artefact");
  }
  Hmac hmac(key_, name.hex);
  std::vector<char> block(std::min(size, kBlock));
  std::size_t left = size - kTrailerBytes;
  while (left > 0) {
    const ssize_t n = ::read(fd.get(), block.data(), std::min(left, block.size()));
    if (n <= 0) {
      return untrusted("cannot be read");
    }
    hmac.update({block.data(), static_cast<std::size_t>(n)});
    left -= static_cast<std::size_t>(n);
  }
  std::array<char, kTrailerBytes> trailer{};
  Mac mac{};
  if (::read(fd.get(), trailer.data(), trailer.size()) != static_cast<ssize_t>(trailer.size()) ||
      !hmac.finish(mac)) {
    return untrusted("cannot be read");
  }
  const bool magic = std::memcmp(trailer.data() + kMacBytes, kMagic.data(), kMagic.size()) == 0;
  unsigned difference = 0;
  for (std::size_t i = 0; i < kMacBytes; ++i) {
    difference |= static_cast<unsigned>(static_cast<std::uint8_t>(trailer[i]) ^ mac[i]);
  }
  if (!magic || difference != 0) {
    return untrusted("carries no valid signature");
  }
  return fd;
}

struct ArtefactStore::Writer::State {
  State(const SecretKey& key, std::string_view name) : hmac(key, name) {}
  Fd fd;
  std::string temporary;
  std::string path;
  Hmac hmac;
  bool committed = false;
};

ArtefactStore::Writer::Writer(std::unique_ptr<State> state) : state_(std::move(state)) {}
ArtefactStore::Writer::Writer(Writer&&) noexcept = default;
ArtefactStore::Writer::~Writer() {
  if (state_ != nullptr && !state_->committed) {
    ::unlink(state_->temporary.c_str());
  }
}

Result<ArtefactStore::Writer> ArtefactStore::create(const Name& name) const {
  auto state = std::make_unique<Writer::State>(key_, name.hex);
  state->path = path_of(name);
  remove_leftovers(folder_, name.hex + ".aot.");
  state->temporary = fmt::format("{}.{}", state->path, ::getpid());
  state->fd.reset(
      ::open(state->temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!state->fd.valid()) {
    return Error::from_errno(fmt::format("cannot make {}", state->temporary), errno);
  }
  return Writer(std::move(state));
}

Result<void> ArtefactStore::Writer::append(std::string_view piece) {
  state_->hmac.update(piece);
  return write_all(state_->fd.get(), piece, state_->temporary);
}

Result<void> ArtefactStore::Writer::commit() {
  Mac mac{};
  if (!state_->hmac.finish(mac)) {
    return crypto_failed();
  }
  std::string trailer(reinterpret_cast<const char*>(mac.data()), mac.size());
  trailer += kMagic;
  MIK_TRY(write_all(state_->fd.get(), trailer, state_->temporary));
  if (::fsync(state_->fd.get()) != 0) {
    return Error::from_errno(fmt::format("cannot sync {}", state_->temporary), errno);
  }
  if (::rename(state_->temporary.c_str(), state_->path.c_str()) != 0) {
    return Error::from_errno(fmt::format("cannot rename to {}", state_->path), errno);
  }
  state_->committed = true;
  return {};
}

Result<Fd> ArtefactStore::lock(const Name& name) const {
  const std::string path = fmt::format("{}/{}.lock", folder_, name.hex);
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) {
    return Error::from_errno(fmt::format("cannot open {}", path), errno);
  }
  while (::flock(fd.get(), LOCK_EX) != 0) {
    if (errno != EINTR) {
      return Error::from_errno(fmt::format("cannot lock {}", path), errno);
    }
  }
  return fd;
}

}  // namespace mik::runtime
