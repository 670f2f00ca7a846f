#include "shared/control.hpp"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <optional>

#include "shared/wire.hpp"

namespace mik::shared {

namespace {

// Packet: u32 magic, u16 kind (the place in the variant), then the fields in the order of the
// struct.
constexpr std::uint32_t kMagic = 0x316b'696d;  // "mik1"
constexpr std::size_t kTextMax = 8 * 1024;

void write(WireWriter& out, const Digest& digest) {
  for (const std::uint8_t byte : digest) {
    out.number(byte);
  }
}

void write(WireWriter& out, bool value) { out.number(static_cast<std::uint8_t>(value ? 1 : 0)); }

struct FieldWriter {
  WireWriter& out;
  void operator()(const Ready&) const {}
  void operator()(const NeedArtefact& m) const { module(m); }
  void operator()(const Fatal& m) const { failure(m); }
  void operator()(const ArtefactReady& m) const {
    module(m);
    artefact(m);
  }
  void operator()(const ArtefactFailed& m) const {
    module(m);
    failure(m);
  }
  void operator()(const Drain& m) const {
    out.number(m.deadline_ns);
    write(out, m.generation_only);
  }
  void operator()(const Resolved& m) const {
    module(m);
    artefact(m);
  }
  void operator()(const Prepared& m) const {
    out.number(m.row);
    out.number(m.version);
    write(out, m.ok);
    out.text(m.text, kTextMax);
  }
  void operator()(const Prepare& m) const {
    module(m);
    out.number(m.version);
    write(out, m.digest);
  }
  void operator()(const Compiled& m) const { artefact(m); }
  void operator()(const CompileFailed& m) const { failure(m); }
  void operator()(const ReopenLogs&) const {}

 private:
  template <class M>
  void module(const M& m) const {
    out.number(m.row);
    out.number(m.incarnation);
  }
  template <class M>
  void artefact(const M& m) const {
    write(out, m.digest);
    out.number(m.artefact_bytes);
  }
  template <class M>
  void failure(const M& m) const {
    out.number(static_cast<std::uint16_t>(m.code));
    out.text(m.text, kTextMax);
    out.text(m.help, kTextMax);
  }
};

std::optional<base::ErrorCode> known_code(std::uint16_t number) {
  switch (number) {
#define MIK_ERROR_CODE(name, value, text, meaning) case value:
#include "base/error_codes.def"
#undef MIK_ERROR_CODE
    return static_cast<base::ErrorCode>(number);
    default:
      return std::nullopt;
  }
}

// The counterpart of FieldWriter. False: a value that no mik process sends.
struct FieldReader {
  WireReader& in;
  bool operator()(Ready&) const { return true; }
  bool operator()(NeedArtefact& m) const { return module(m); }
  bool operator()(Fatal& m) const { return failure(m); }
  bool operator()(ArtefactReady& m) const { return module(m) && artefact(m); }
  bool operator()(ArtefactFailed& m) const { return module(m) && failure(m); }
  bool operator()(Drain& m) const {
    m.deadline_ns = in.number<std::uint64_t>();
    return boolean(m.generation_only);
  }
  bool operator()(Resolved& m) const { return module(m) && artefact(m); }
  bool operator()(Prepared& m) const {
    m.row = in.number<std::uint32_t>();
    m.version = in.number<std::uint64_t>();
    const bool known = boolean(m.ok);
    m.text = in.text(kTextMax);
    return known;
  }
  bool operator()(Prepare& m) const {
    module(m);
    m.version = in.number<std::uint64_t>();
    return digest(m.digest);
  }
  bool operator()(Compiled& m) const { return artefact(m); }
  bool operator()(CompileFailed& m) const { return failure(m); }
  bool operator()(ReopenLogs&) const { return true; }

 private:
  bool boolean(bool& value) const {
    const auto byte = in.number<std::uint8_t>();
    value = byte == 1;
    return byte <= 1;
  }
  bool digest(Digest& value) const {
    for (std::uint8_t& byte : value) {
      byte = in.number<std::uint8_t>();
    }
    return true;
  }
  template <class M>
  bool module(M& m) const {
    m.row = in.number<std::uint32_t>();
    m.incarnation = in.number<std::uint64_t>();
    return true;
  }
  template <class M>
  bool artefact(M& m) const {
    digest(m.digest);
    m.artefact_bytes = in.number<std::uint64_t>();
    return true;
  }
  template <class M>
  bool failure(M& m) const {
    const auto code = known_code(in.number<std::uint16_t>());
    m.code = code.value_or(base::ErrorCode::kInternal);
    m.text = in.text(kTextMax);
    m.help = in.text(kTextMax);
    return code.has_value();
  }
};

// A message of this kind with nothing in it yet.
template <std::size_t I = 0>
std::optional<Message> empty_of(std::uint16_t kind) {
  if constexpr (I == std::variant_size_v<Message>) {
    return std::nullopt;
  } else {
    return kind == I ? std::optional<Message>(std::in_place, std::in_place_index<I>)
                     : empty_of<I + 1>(kind);
  }
}

}  // namespace

std::string encode(const Message& message) {
  WireWriter out;
  out.number(kMagic);
  out.number(static_cast<std::uint16_t>(message.index()));
  std::visit(FieldWriter{out}, message);
  return std::move(out).take();
}

base::Result<Message> decode(std::string_view bytes) {
  WireReader in(bytes);
  const auto magic = in.number<std::uint32_t>();
  const auto kind = in.number<std::uint16_t>();
  if (magic == kMagic) {
    std::optional<Message> message = empty_of(kind);
    if (message && std::visit(FieldReader{in}, *message) && in.complete()) {
      return *std::move(message);
    }
  }
  return base::Error(base::ErrorCode::kBadMessage, "a control message that no mik process sends");
}

Fatal to_fatal(const base::Error& error) { return {error.code(), error.to_string(), error.help()}; }

CompileFailed to_compile_failed(const base::Error& error) {
  return {error.code(), error.to_string(), error.help()};
}

base::Error to_error(const Fatal& message) {
  return base::Error(message.code, message.text).with_help(message.help);
}

base::Error to_error(const ArtefactFailed& message) {
  return base::Error(message.code, message.text).with_help(message.help);
}

base::Error to_error(const CompileFailed& message) {
  return base::Error(message.code, message.text).with_help(message.help);
}

base::Result<std::pair<Channel, Channel>> Channel::pair() {
  std::array<int, 2> fds{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds.data()) != 0) {
    return base::Error::from_errno("socketpair", errno);
  }
  return std::pair(Channel(base::Fd(fds[0])), Channel(base::Fd(fds[1])));
}

base::Result<void> Channel::send(const Message& message) {
  const std::string bytes = encode(message);
  ssize_t sent = 0;
  do {
    sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    return base::Error::from_errno("cannot send a control message", errno);
  }
  return {};
}

base::Result<std::variant<Message, EndOfFile, NothingYet>> Channel::receive() {
  using Received = std::variant<Message, EndOfFile, NothingYet>;
  std::string bytes(kMessageMax, '\0');
  ssize_t got = 0;
  do {
    got = ::recv(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_TRUNC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return Received(NothingYet{});
    }
    // ECONNRESET: the peer died with messages unread.
    return Received(EndOfFile{});
  }
  if (got == 0) {
    return Received(EndOfFile{});
  }
  if (static_cast<std::size_t>(got) > bytes.size()) {
    return base::Error(base::ErrorCode::kBadMessage, "a control message that is too long");
  }
  MIK_TRY_ASSIGN(Message message,
                 decode(std::string_view(bytes).substr(0, static_cast<std::size_t>(got))));
  return Received(std::move(message));
}

}  // namespace mik::shared
