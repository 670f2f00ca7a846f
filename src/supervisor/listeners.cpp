#include "supervisor/listeners.hpp"

#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <memory>
#include <sstream>
#include <string_view>

#include "net/socket.hpp"

namespace mik::supervisor {

namespace {

constexpr int kBacklog = 4096;  // the kernel cuts it to somaxconn

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
    const ssize_t length =
        ::readlink((fd_folder + "/" + name).c_str(), target.data(), target.size());
    const std::string_view found(target.data(),
                                 static_cast<std::size_t>(std::max<ssize_t>(0, length)));
    if (std::ranges::find(inodes, found) != inodes.end()) {
      return true;
    }
  }
  return false;
}

base::Error in_use(const net::SocketAddress& address, base::Error error) {
  const std::string port = std::to_string(address.port());
  std::string text = "port " + port + " is in use";
  if (const auto owner = port_owner(address.port())) {
    text += " by " + owner->name + " (pid " + std::to_string(owner->pid) + ")";
  }
  return std::move(error)
      .because(std::move(text))
      .with_help("stop that process, or choose another port with --port");
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

base::Result<std::vector<Listener>> open_listeners(const std::vector<std::string>& binds) {
  if (binds.empty()) {
    return base::Error(base::ErrorCode::kConfig, "no address to listen on");
  }
  std::vector<Listener> listeners;
  for (const std::string& bind : binds) {
    MIK_TRY_ASSIGN(const net::SocketAddress address, net::parse_socket_address(bind));
    auto fd = net::listen_tcp(address, kBacklog);
    if (!fd) {
      if (fd.error().code() == base::ErrorCode::kAddressInUse) {
        return in_use(address, std::move(fd).error());
      }
      return std::move(fd).error();
    }
    const int on = 1;
    ::setsockopt(fd->get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    MIK_TRY_ASSIGN(const net::SocketAddress local, net::local_address(fd->get()));
    listeners.push_back({std::move(fd).value(), local.to_string()});
  }
  return listeners;
}

}  // namespace mik::supervisor
