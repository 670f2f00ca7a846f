#include "runtime/artefact_store.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "runtime/sha256.hpp"

namespace mik::runtime {

namespace {

using base::Error;
using base::ErrorCode;
using base::Fd;
using base::Result;

constexpr std::size_t kMacBytes = 32;
// After the code: the artefact's name, the MAC, then this.
constexpr std::string_view kMagic = "mik-artefact-02\n";
constexpr std::size_t kTrailerBytes = sizeof(shared::Digest) + kMacBytes + kMagic.size();
constexpr std::size_t kBlock = 256 * 1024;

using Mac = Sha256Digest;
static_assert(sizeof(Mac) == kMacBytes);

// Over the artefact's name and its bytes.
HmacSha256 hmac_for(const std::array<std::uint8_t, 32>& key, std::string_view name) {
  HmacSha256 hmac(key);
  hmac.update(name);
  return hmac;
}

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

// Of writers that were killed: tens of megabytes each. They end in a process's number.
void remove_leftovers(const std::string& folder, std::string_view prefix) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string file = entry.path().filename().native();
    if (file.starts_with(prefix) && file.size() > prefix.size() &&
        file.find_first_not_of("0123456789", prefix.size()) == std::string::npos) {
      ::unlink(entry.path().c_str());
    }
  }
}

struct Trailer {
  shared::Digest digest{};
  Mac mac{};
};

// Nothing when the file has none. `size`: of the file.
std::optional<Trailer> read_trailer(int fd, std::size_t size) {
  std::array<char, kTrailerBytes> bytes{};
  if (size < bytes.size() ||
      ::pread(fd, bytes.data(), bytes.size(), static_cast<off_t>(size - bytes.size())) !=
          static_cast<ssize_t>(bytes.size())) {
    return std::nullopt;
  }
  Trailer trailer;
  const char* mac = bytes.data() + trailer.digest.size();
  if (std::memcmp(mac + kMacBytes, kMagic.data(), kMagic.size()) != 0) {
    return std::nullopt;
  }
  std::memcpy(trailer.digest.data(), bytes.data(), trailer.digest.size());
  std::memcpy(trailer.mac.data(), mac, kMacBytes);
  return trailer;
}

std::optional<std::size_t> size_if_ours(int fd) {
  struct stat info{};
  if (!ours_alone(fd) || ::fstat(fd, &info) != 0) {
    return std::nullopt;
  }
  return static_cast<std::size_t>(info.st_size);
}

bool same(const Mac& a, const Mac& b) {
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned>(a[i] ^ b[i]);
  }
  return difference == 0;
}

// The MAC of what lies before the trailer; nothing when it cannot be read.
std::optional<Mac> mac_of_file(int fd, std::size_t bytes, HmacSha256& hmac) {
  std::vector<char> block(std::min(bytes, kBlock));
  while (bytes > 0) {
    const ssize_t n = ::read(fd, block.data(), std::min(bytes, block.size()));
    if (n <= 0) {
      return std::nullopt;
    }
    hmac.update(std::string_view(block.data(), static_cast<std::size_t>(n)));
    bytes -= static_cast<std::size_t>(n);
  }
  return hmac.finish();
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

ArtefactStore::Name ArtefactStore::name_of(std::string_view wasm,
                                           const std::array<std::uint8_t, 32>& engine_key) {
  Sha256 sha;
  sha.update(engine_key);
  sha.update(wasm);
  return name(sha.finish());
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

Result<Fd> ArtefactStore::open_verified(const Name& name, const std::string& beside) const {
  if (beside.empty()) {
    return verify(name, path_of(name));
  }
  auto found = verify(name, beside);
  if (found.has_value()) {
    return found;
  }
  auto own = verify(name, path_of(name));
  // Of two reasons the one that has to be said.
  return own.has_value() || own.error().code() == ErrorCode::kUntrusted ? std::move(own)
                                                                        : std::move(found);
}

Result<Fd> ArtefactStore::verify(const Name& name, const std::string& path) const {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd.valid()) {
    return Error(ErrorCode::kNotFound, path);
  }
  const auto untrusted = [&](std::string_view why) {
    return Error(ErrorCode::kUntrusted, fmt::format("{} {}", path, why));
  };
  const std::optional<std::size_t> size = size_if_ours(fd.get());
  if (!size) {
    return untrusted("is not a file that only this user can write");
  }
  const std::optional<Trailer> trailer = read_trailer(fd.get(), *size);
  if (!trailer) {
    return untrusted("is not signed");
  }
  if (trailer->digest != name.digest && path != path_of(name)) {
    return Error(ErrorCode::kNotFound, path);  // of another version of the module
  }
  HmacSha256 hmac = hmac_for(key_, name.hex);
  const std::optional<Mac> mac = mac_of_file(fd.get(), *size - kTrailerBytes, hmac);
  if (!mac) {
    return untrusted("cannot be read");
  }
  if (trailer->digest != name.digest || !same(trailer->mac, *mac)) {
    return untrusted("carries no valid signature");
  }
  // So that what is used last is removed last; a file system that keeps no times does no harm.
  const std::array<timespec, 2> now = {timespec{0, UTIME_OMIT}, timespec{0, UTIME_NOW}};
  ::futimens(fd.get(), now.data());
  return fd;
}

struct ArtefactStore::Writer::State {
  State(const SecretKey& key, const Name& name)
      : hmac(hmac_for(key, name.hex)), digest(name.digest) {}
  Fd fd;
  std::string temporary;
  std::string path;
  std::string folder;  // where another version that lies at `path` goes; empty: nowhere
  HmacSha256 hmac;
  shared::Digest digest;
  bool committed = false;

  bool open() {
    temporary = fmt::format("{}.{}", path, ::getpid());
    fd.reset(::open(temporary.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    return fd.valid();
  }
  void keep_other_version() const {
    const Fd other(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    const std::optional<std::size_t> size = size_if_ours(other.get());
    const auto trailer = size ? read_trailer(other.get(), *size) : std::nullopt;
    if (trailer && trailer->digest != digest) {
      // Another file system: then it is lost, and compiled again should anybody ask for it.
      ::rename(path.c_str(),
               fmt::format("{}/{}.aot", folder, ArtefactStore::name(trailer->digest).hex).c_str());
    }
  }
};

ArtefactStore::Writer::Writer(std::unique_ptr<State> state) : state_(std::move(state)) {}
ArtefactStore::Writer::Writer(Writer&&) noexcept = default;
ArtefactStore::Writer::~Writer() {
  if (state_ != nullptr && !state_->committed) {
    ::unlink(state_->temporary.c_str());
  }
}

Result<ArtefactStore::Writer> ArtefactStore::create(const Name& name,
                                                    const std::string& beside) const {
  auto state = std::make_unique<Writer::State>(key_, name);
  if (!beside.empty()) {
    const std::size_t slash = beside.rfind('/');
    state->path = beside;
    state->folder = folder_;
    remove_leftovers(beside.substr(0, slash), beside.substr(slash + 1) + ".");
    if (state->open()) {
      return Writer(std::move(state));
    }
  }
  state->path = path_of(name);
  state->folder.clear();
  remove_leftovers(folder_, name.hex + ".aot.");
  if (!state->open()) {
    return Error::from_errno(fmt::format("cannot make {}", state->temporary), errno);
  }
  return Writer(std::move(state));
}

Result<Fd> ArtefactStore::Writer::reopen() const {
  Fd fd(::open(state_->temporary.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) {
    return Error::from_errno(fmt::format("cannot open {}", state_->temporary), errno);
  }
  return fd;
}

Result<void> ArtefactStore::Writer::append(std::string_view piece) {
  state_->hmac.update(piece);
  return write_all(state_->fd.get(), piece, state_->temporary);
}

Result<void> ArtefactStore::Writer::commit() {
  const Mac mac = state_->hmac.finish();
  std::string trailer(reinterpret_cast<const char*>(state_->digest.data()), state_->digest.size());
  trailer.append(reinterpret_cast<const char*>(mac.data()), mac.size());
  trailer += kMagic;
  MIK_TRY(write_all(state_->fd.get(), trailer, state_->temporary));
  if (::fsync(state_->fd.get()) != 0) {
    return Error::from_errno(fmt::format("cannot sync {}", state_->temporary), errno);
  }
  if (!state_->folder.empty()) {
    state_->keep_other_version();
  }
  if (::rename(state_->temporary.c_str(), state_->path.c_str()) != 0) {
    return Error::from_errno(fmt::format("cannot rename to {}", state_->path), errno);
  }
  state_->committed = true;
  return {};
}

std::string ArtefactStore::lock_path(const Name& name) const {
  return fmt::format("{}/{}.lock", folder_, name.hex);
}

void ArtefactStore::remove_lock(const Name& name) const noexcept {
  ::unlink(lock_path(name).c_str());
}

Result<Fd> ArtefactStore::lock(const Name& name) const {
  const std::string path = lock_path(name);
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
