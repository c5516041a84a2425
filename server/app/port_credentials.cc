#include "server/app/port_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/access/caller.h"
#include "server/service/call_access.h"

namespace normd::app {
namespace {

absl::string_view ToView(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

std::vector<std::string> PropertyValues(const grpc_auth_context* context, const char* name) {
  std::vector<std::string> values;
  grpc_auth_property_iterator it = grpc_auth_context_find_properties_by_name(context, name);
  while (const grpc_auth_property* property = grpc_auth_property_iterator_next(&it)) {
    values.emplace_back(property->value, property->value_length);
  }
  return values;
}

// Looks at the metadata of each call. Owned by the port.
class Doorkeeper {
 public:
  Doorkeeper(const access::AccessControl* access, OnRefusedCall on_refused)
      : access_(access), on_refused_(std::move(on_refused)) {}

  // For gRPC, which owns what it returns.
  static grpc_auth_metadata_processor Make(const access::AccessControl* access, OnRefusedCall on_refused) {
    return {&Doorkeeper::Process, &Doorkeeper::Destroy, new Doorkeeper(access, std::move(on_refused))};
  }

 private:
  static void Process(void* state, grpc_auth_context* context, const grpc_metadata* metadata, std::size_t size,
                      grpc_process_auth_metadata_done_cb done, void* user_data) {
    const auto* const self = static_cast<const Doorkeeper*>(state);
    absl::string_view path;
    access::Credentials credentials;
    for (std::size_t i = 0; i < size; ++i) {
      const absl::string_view key = ToView(metadata[i].key);
      if (key == ":path") path = ToView(metadata[i].value);
      if (key == "authorization") credentials.authorizations.push_back(ToView(metadata[i].value));
    }
    if (credentials.authorizations.empty()) {
      credentials.certificate_names = PropertyValues(context, GRPC_X509_SAN_PROPERTY_NAME);
      for (std::string& name : PropertyValues(context, GRPC_X509_CN_PROPERTY_NAME)) {
        credentials.certificate_names.push_back(std::move(name));
      }
    }
    const absl::Status status = self->Check(path, credentials);
    if (!status.ok()) {
      self->access_->CountRefused();
      self->on_refused_(path, status);
    }
    // The codes of both libraries are the same.
    done(user_data, nullptr, 0, nullptr, 0, static_cast<grpc_status_code>(status.code()),
         status.ok() ? nullptr : std::string(status.message()).c_str());
  }
  static void Destroy(void* state) { delete static_cast<Doorkeeper*>(state); }

  absl::Status Check(absl::string_view path, const access::Credentials& credentials) const {
    if (service::IsOpenToAll(path)) return absl::OkStatus();
    const access::Caller caller(access_, credentials);
    const std::optional<access::Role> role = service::RoleOf(path);
    absl::Status status = caller.CheckSome(role.value_or(access::Role::kRead));
    // What has a role takes its call itself, and says when to come again.
    if (status.ok() && !role.has_value()) status = service::TakeCall(caller);
    return status;
  }

  const access::AccessControl* const access_;
  const OnRefusedCall on_refused_;
};

grpc_ssl_certificate_config_reload_status FetchCertificates(void* tls, grpc_ssl_server_certificate_config** config) {
  const std::unique_ptr<TlsCertificates> certificates = static_cast<TlsFiles*>(tls)->TakeNew();
  if (certificates == nullptr) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  const grpc_ssl_pem_key_cert_pair pair = {certificates->key.c_str(), certificates->cert.c_str()};
  // gRPC 1.51 takes none for a broken assertion; without clients' certificates nobody looks at them.
  const std::string& roots = certificates->client_ca.empty() ? certificates->cert : certificates->client_ca;
  *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

grpc_server_credentials* MakeCredentials(TlsFiles* tls) {
  if (tls == nullptr) return grpc_insecure_server_credentials_create();
  grpc_ssl_server_credentials_options* const options = grpc_ssl_server_credentials_create_options_using_config_fetcher(
      tls->wants_client_certificate() ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                      : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
      &FetchCertificates, tls);
  return grpc_ssl_server_credentials_create_with_options(options);
}

// gRPC's own classes have a processor for TLS only, take no changing certificates but by a thread that reads files all
// the time, and with those would leave a server without any while certificate and key do not go together.
class PortCredentials final : public grpc::ServerCredentials {
 public:
  explicit PortCredentials(grpc_server_credentials* credentials) : credentials_(credentials) {}
  ~PortCredentials() override { grpc_server_credentials_release(credentials_); }
  PortCredentials(const PortCredentials&) = delete;
  PortCredentials& operator=(const PortCredentials&) = delete;

  // Nobody needs it.
  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  grpc_server_credentials* const credentials_;
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> MakePortCredentials(TlsFiles* tls, const access::AccessControl* access,
                                                             OnRefusedCall on_refused) {
  grpc_server_credentials* const credentials = MakeCredentials(tls);
  if (access != nullptr && access->identifies()) {
    grpc_server_credentials_set_auth_metadata_processor(credentials, Doorkeeper::Make(access, std::move(on_refused)));
  }
  return std::make_shared<PortCredentials>(credentials);
}

}  // namespace normd::app
