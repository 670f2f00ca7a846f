#include "supervisor/listeners.hpp"

#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string_view>

#include "net/socket.hpp"

namespace mik::supervisor {

namespace {

constexpr int kBacklog = 4096;  // the kernel cuts it to somaxconn
constexpr std::string_view kUnix = "unix:";

struct CloseDir {
  void operator()(DIR* dir) const noexcept { ::closedir(dir); }
};
using Dir = std::unique_ptr<DIR, CloseDir>;

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  const Dir dir(::opendir(path.c_str()));
  while (dir != nullptr) {
    const dirent* entry =
        ::readdir(dir.get());  // NOLINT(concurrency-mt-unsafe): a stream of our own
    if (entry == nullptr) {
      break;
    }
    names.emplace_back(entry->d_name);
  }
  return names;
}

// Of the sockets that listen on the port: "socket:[12345]" as /proc/PID/fd shows them.
std::vector<std::string> listening_inodes(std::uint16_t port) {
  constexpr const char* kListen = "0A";
  std::vector<std::string> inodes;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream file(table);
    std::string line;
    std::getline(file, line);  // the heading
    while (std::getline(file, line)) {
      // sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
      std::istringstream words(line);
      std::array<std::string, 10> word;
      for (std::string& each : word) {
        words >> each;
      }
      const std::size_t colon = word[1].rfind(':');
      if (word[3] != kListen || colon == std::string::npos) {
        continue;
      }
      unsigned value = 0;
      const char* begin = word[1].data() + colon + 1;
      std::from_chars(begin, word[1].data() + word[1].size(), value, 16);
      if (value == port) {
        inodes.push_back("socket:[" + word[9] + "]");
      }
    }
  }
  return inodes;
}

bool holds_one_of(const std::string& fd_folder, const std::vector<std::string>& inodes) {
  for (const std::string& name : names_in(fd_folder)) {
    std::array<char, 64> target{};
    const ssize_t length = ::readlink(std::string(fd_folder).append("/").append(name).c_str(),
                                      target.data(), target.size());
    const std::string_view found(target.data(),
                                 static_cast<std::size_t>(std::max<ssize_t>(0, length)));
    if (std::ranges::find(inodes, found) != inodes.end()) {
      return true;
    }
  }
  return false;
}

base::Error explain(const net::SocketAddress& address, base::Error error) {
  if (error.code() != base::ErrorCode::kAddressInUse) {
    return error;
  }
  const std::string port = std::to_string(address.port());
  std::string text = "port " + port + " is in use";
  std::string help = "stop that process, or choose another port with --port";
  if (const auto owner = port_owner(address.port())) {
    if (owner->pid == ::getpid()) {
      text += " by this server itself, for an address that overlaps";
      help =
          "name each address once in [server] bind; to change from one address of a port to "
          "another that holds it, restart";
    } else {
      text += " by " + owner->name + " (pid " + std::to_string(owner->pid) + ")";
    }
  }
  return std::move(error).because(std::move(text)).with_help(std::move(help));
}

}  // namespace

std::optional<PortOwner> port_owner(std::uint16_t port) {
  const std::vector<std::string> inodes = listening_inodes(port);
  if (inodes.empty()) {
    return std::nullopt;
  }
  for (const std::string& name : names_in("/proc")) {
    pid_t pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc() || end != name.data() + name.size()) {
      continue;
    }
    if (holds_one_of("/proc/" + name + "/fd", inodes)) {
      PortOwner owner{.pid = pid, .name = {}};
      std::ifstream comm("/proc/" + name + "/comm");
      std::getline(comm, owner.name);
      return owner;
    }
  }
  return std::nullopt;
}

Listener::Listener(base::Fd fd, std::string bind, std::string address)
    : fd_(std::move(fd)), bind_(std::move(bind)), address_(std::move(address)) {
  struct stat status{};
  if (bind_.starts_with(kUnix) && ::lstat(bind_.c_str() + kUnix.size(), &status) == 0) {
    path_ = bind_.substr(kUnix.size());
    device_ = status.st_dev;
    inode_ = status.st_ino;
  }
}

Listener::~Listener() { remove_file(); }

base::Result<std::unique_ptr<Listener>> Listener::open(
    std::string bind, const std::vector<std::unique_ptr<Listener>>& ours) {
  base::Fd fd;
  if (bind.starts_with(kUnix)) {
    MIK_TRY_ASSIGN(fd, net::listen_unix(bind.substr(kUnix.size()), kBacklog));
  } else {
    MIK_TRY_ASSIGN(const net::SocketAddress address, net::parse_socket_address(bind));
    std::vector<int> overlapping;
    for (const auto& other : ours) {
      const auto theirs = net::parse_socket_address(other->address());
      if (theirs && address.port() != 0 && theirs->port() == address.port() &&
          theirs->storage.ss_family == address.storage.ss_family &&
          theirs->host() != address.host()) {
        overlapping.push_back(other->fd());
      }
    }
    auto opened = net::listen_tcp_beside(address, kBacklog, overlapping);
    if (!opened) {
      return explain(address, std::move(opened).error());
    }
    fd = std::move(opened).value();
    const int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  MIK_TRY_ASSIGN(const net::SocketAddress local, net::local_address(fd.get()));
  return std::unique_ptr<Listener>(new Listener(std::move(fd), std::move(bind), local.to_string()));
}

void Listener::refuse_new() noexcept {
  if (path_.empty()) {
    net::drop_new_connections(fd_.get());
  }
  remove_file();
}

// Unless another has put its own in its place.
void Listener::remove_file() noexcept {
  struct stat status{};
  if (!path_.empty() && ::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ &&
      status.st_ino == inode_) {
    ::unlink(path_.c_str());
  }
  path_.clear();
}

base::Result<std::vector<Listener*>> Listeners::open(const std::vector<std::string>& binds) {
  if (binds.empty()) {
    return base::Error(base::ErrorCode::kConfig, "no address to listen on");
  }
  std::vector<std::unique_ptr<Listener>> opened;
  std::vector<Listener*> result;
  for (const std::string& bind : binds) {
    // The same bind twice ("127.0.0.1:0") is two sockets.
    const auto present = std::ranges::find_if(listeners_, [&](const auto& listener) {
      return listener->bind() == bind && std::ranges::find(result, listener.get()) == result.end();
    });
    if (present != listeners_.end()) {
      result.push_back(present->get());
      continue;
    }
    MIK_TRY_ASSIGN(std::unique_ptr<Listener> listener, Listener::open(bind, listeners_));
    result.push_back(listener.get());
    opened.push_back(std::move(listener));
  }
  std::ranges::move(opened, std::back_inserter(listeners_));
  return result;
}

void Listeners::keep_only(const std::vector<Listener*>& used) {
  std::erase_if(listeners_, [&used](const std::unique_ptr<Listener>& listener) {
    if (std::ranges::find(used, listener.get()) != used.end()) {
      return false;
    }
    listener->refuse_new();
    return true;
  });
}

}  // namespace mik::supervisor
