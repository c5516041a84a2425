#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/cli/restore_flags.h"
#include "client/cli/verbs.h"

namespace normd::cli {
namespace {

absl::Status FileError(const std::string& path, absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(path, ": cannot ", what, ": ", std::strerror(errno)));
}

// Into a file beside `path` first, so that a backup that breaks off is never taken for one.
absl::StatusOr<int64_t> WriteBackup(Client* client, const std::string& path) {
  const std::string part = path + ".part";
  std::ofstream file(part, std::ios::binary | std::ios::trunc);
  if (!file) return FileError(part, "write");
  absl::StatusOr<int64_t> bytes = client->Backup([&](absl::string_view piece, int64_t /*total_bytes*/) {
    file.write(piece.data(), static_cast<std::streamsize>(piece.size()));
    return file ? absl::OkStatus() : FileError(part, "write");
  });
  file.close();
  if (bytes.ok() && !file) bytes = FileError(part, "write");
  if (bytes.ok() && std::rename(part.c_str(), path.c_str()) != 0) bytes = FileError(path, "write");
  if (!bytes.ok()) std::remove(part.c_str());
  return bytes;
}

}  // namespace

void AddBackup(CLI::App* parent, Context* context) {
  struct Arguments {
    std::string path;
    bool force = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb =
      parent->add_subcommand("backup", "Copy everything that the server keeps into a file, while it works");
  verb->footer("The file is a state store: normd --store sqlite:FILE starts with it. It takes as long as it needs.");
  verb->add_option("file", arguments->path, "File to write")->required()->type_name(kFileType);
  verb->add_flag("--force", arguments->force, "Replace the file if it exists");
  verb->callback([arguments, context] {
    context->action = [arguments, context]() -> absl::Status {
      if (std::error_code ignored; !arguments->force && std::filesystem::exists(arguments->path, ignored)) {
        return absl::AlreadyExistsError(absl::StrCat(arguments->path, " exists already; --force replaces it"));
      }
      const absl::StatusOr<int64_t> bytes = WriteBackup(&context->client(), arguments->path);
      if (!bytes.ok()) return bytes.status();
      context->printer().PrintBackup(arguments->path, *bytes);
      return absl::OkStatus();
    };
  });
}

void AddRestore(CLI::App* parent, Context* context) {
  struct Arguments {
    std::string path;
    RestoreSelection selection;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("restore", "Bring layers back out of a backup, all in one step");
  verb->footer(
      "Layers that the backup does not hold stay. To start a server with all of a backup, and nothing else, copy the "
      "file "
      "to where its store is while it is stopped.");
  verb->add_option("file", arguments->path, "File that normctl backup has written")->required()->type_name(kFileType);
  AddRestoreFlags(verb, &arguments->selection);
  verb->callback([arguments, context] {
    context->action = [arguments, context]() -> absl::Status {
      std::ifstream file(arguments->path, std::ios::binary);
      if (!file) return FileError(arguments->path, "read");
      const absl::StatusOr<int64_t> layers = context->client().RestoreBackup(
          [&](absl::Span<char> piece) -> absl::StatusOr<std::size_t> {
            file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
            if (file.bad()) return FileError(arguments->path, "read");
            return static_cast<std::size_t>(file.gcount());
          },
          arguments->selection);
      if (!layers.ok()) return layers.status();
      context->printer().PrintRestored(arguments->path, *layers);
      return absl::OkStatus();
    };
  });
}

}  // namespace normd::cli
