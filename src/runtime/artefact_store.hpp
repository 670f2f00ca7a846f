// Compiled components on disk. An artefact is native code, so it is mapped only when it carries a
// MAC under a key that only we can read, and lies in a folder that only we can write: a forged file
// never runs. Stateless but for the folder and key; may be used from any thread and by several
// processes: files appear whole, by rename.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "shared/layout.hpp"

namespace mik::runtime {

class ArtefactStore {
 public:
  // What an artefact is made of; its file is named for it.
  struct Name {
    shared::Digest digest{};
    std::string hex;
  };
  static Name name(const shared::Digest& digest);

  // <state_dir>/cache/aot, made if missing (0700), and <state_dir>/cache/key, made once (0600).
  // kUntrusted when folder or key are not ours alone.
  static base::Result<ArtefactStore> open(const std::string& state_dir);

  // SHA-256 over the component's bytes and the engine's artefact key.
  static Name name_of(std::string_view wasm, const std::array<std::uint8_t, 32>& engine_key);

  // An open file whose owner, mode and MAC are right; the time of its last use is now. `beside`:
  // where it may lie beside its module (artefact_beside), looked at first; empty: only in our own
  // folder. kNotFound: compile it. kUntrusted: it is there and must not be used; compile it again.
  // Blocking: reads the whole file.
  base::Result<base::Fd> open_verified(const Name& name, const std::string& beside = {}) const;

  // Writes a new artefact: append pieces, then commit. Without commit nothing stays.
  class Writer {
   public:
    Writer(Writer&&) noexcept;
    ~Writer();
    base::Result<void> append(std::string_view piece);
    // Adds the MAC, syncs and renames into place.
    base::Result<void> commit();
    // What was written and is not in place yet, to be tried.
    base::Result<base::Fd> reopen() const;

   private:
    friend class ArtefactStore;
    struct State;
    explicit Writer(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
  };
  // The caller holds lock(name): what other writers of it have left is removed. It comes to lie
  // beside the module where that folder is ours to write, else in our own. What lies beside the
  // module so far is kept in our own folder if it can be: it may still be served.
  base::Result<Writer> create(const Name& name, const std::string& beside = {}) const;

  // Held while an artefact is made, so that two servers that share the folder compile it once.
  // Blocks.
  base::Result<base::Fd> lock(const Name& name) const;
  // By the holder, who is done: its file goes. Whoever waits for it finds the artefact.
  void remove_lock(const Name& name) const noexcept;

  std::string path_of(const Name& name) const;

 private:
  ArtefactStore(std::string folder, std::array<std::uint8_t, 32> key)
      : folder_(std::move(folder)), key_(key) {}
  base::Result<base::Fd> verify(const Name& name, const std::string& path) const;
  std::string lock_path(const Name& name) const;

  std::string folder_;
  std::array<std::uint8_t, 32> key_;
};

}  // namespace mik::runtime
