#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/bench_load.h"
#include "client/cli/bench_options.h"
#include "client/cli/bench_progress.h"
#include "client/cli/bench_report.h"
#include "client/cli/bench_stats.h"
#include "client/cli/bench_target.h"
#include "client/cli/interrupt.h"
#include "client/cli/names.h"
#include "client/cli/verbs.h"

namespace normd::cli {
namespace {

constexpr absl::Duration kLongest = absl::Hours(24);

struct Arguments {
  std::vector<std::string> shapes;
  std::string dtype = "float32";
  std::string layout = "channels_first";
  std::string duration = "5s";
  std::string warmup = "2s";
  BenchOptions options;
};

const std::map<std::string, DType>& DTypeNames() {
  static const auto* const names = new std::map<std::string, DType>{{"float32", DType::kFloat32},
                                                                    {"float64", DType::kFloat64},
                                                                    {"float16", DType::kFloat16},
                                                                    {"bfloat16", DType::kBFloat16}};
  return *names;
}

// A layer of the benchmark's own, deleted at the latest when this goes.
class TemporaryLayer {
 public:
  TemporaryLayer(Client* client, int64_t num_channels) : client_(*client) {
    std::random_device random;
    spec_.name = absl::StrFormat("bench.%08x%08x", random(), random());
    spec_.config.num_channels = num_channels;
  }
  ~TemporaryLayer() { Delete(); }
  TemporaryLayer(const TemporaryLayer&) = delete;
  TemporaryLayer& operator=(const TemporaryLayer&) = delete;

  absl::Status Create() {
    absl::Status status = client_.CreateLayer(spec_).status();
    // After these it may be there all the same.
    exists_ = status.ok() || absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status);
    certain_ = status.ok();
    return status;
  }

  // May be repeated. Says so on stderr if the layer stays.
  void Delete() {
    if (!exists_) return;
    exists_ = false;
    CallOptions call;
    call.timeout = absl::Seconds(5);
    const absl::Status status = client_.DeleteLayer(spec_.name, "", call);
    if (!status.ok() && !absl::IsNotFound(status) && certain_) {
      std::cerr << "warning: layer " << spec_.name << " was left on the server: " << status.message() << "\n";
    }
  }

  const std::string& name() const { return spec_.name; }

 private:
  Client& client_;
  LayerSpec spec_;
  bool exists_ = false;
  // Only then is it worth a word that it could not be deleted.
  bool certain_ = false;
};

absl::Status CheckLayer(const BenchOptions& options, Client* client) {
  const absl::StatusOr<Layer> layer = client->GetLayer(options.layer);
  if (!layer.ok()) return layer.status();
  if (layer->config.num_channels != options.num_channels()) {
    return absl::InvalidArgumentError(absl::StrCat("layer '", options.layer, "': --shape has ", options.num_channels(),
                                                   " channels, want ", layer->config.num_channels));
  }
  return absl::OkStatus();
}

// What the numbers amount to: OK if there are any.
absl::Status Verdict(const BenchReport& report, const BenchRecorder& recorder, bool interrupted) {
  if (interrupted) return absl::CancelledError("interrupted");
  if (report.total.ok() > 0) return absl::OkStatus();
  if (absl::Status status = recorder.first_error(); !status.ok()) return status;
  return absl::FailedPreconditionError(absl::StrCat("no call ended in ", Counted(report.options.windows, "window"),
                                                    " of ", absl::FormatDuration(report.options.duration),
                                                    "; allow more with --duration"));
}

absl::Status Run(const BenchOptions& options, Context* context) {
  const Interrupt interrupt;
  Client& client = context->client();
  TemporaryLayer own(&client, options.num_channels());
  const bool temporary = options.layer.empty();
  if (absl::Status status = temporary ? own.Create() : CheckLayer(options, &client); !status.ok()) return status;

  absl::StatusOr<std::unique_ptr<ServerTarget>> target =
      ServerTarget::Create(context->server, context->client_options(), options, temporary ? own.name() : options.layer);
  if (!target.ok()) return target.status();
  BenchRecorder recorder(BenchTimeline::From(SteadyNanoseconds(), options));
  int windows = options.windows;
  bool interrupted = false;
  bool hopeless = false;
  {
    BenchProgress progress;
    RunBenchLoad(options, target->get(), &recorder, [&](int64_t now_ns) {
      progress.Show(recorder, now_ns);
      const int window = recorder.timeline().WindowAt(now_ns);
      if (interrupt.asked() && !interrupted) {
        interrupted = true;
        windows = std::max(0, window);
        // At once: the calls under way may take long, and a second Ctrl-C ends the program.
        own.Delete();
      }
      // Nothing but failures in the warm-up: the rest would be the same.
      if (window == 0 && !hopeless) {
        const BenchWindow warmup = recorder.Window(-1);
        hopeless = warmup.failed() > 0 && warmup.ok() == 0 && recorder.Window(0).ok() == 0;
      }
      return !interrupted && !hopeless;
    });
  }
  if (hopeless) return recorder.first_error();
  if (windows == 0) return absl::CancelledError("interrupted before the first window was over");
  BenchReport report = MakeBenchReport(options, recorder, windows);
  report.server = context->server;
  report.timeout = context->client_options().timeout;
  context->printer().PrintBench(report);
  return Verdict(report, recorder, interrupted);
}

// A check of CLI11's: says what is wrong with a text, or nothing.
CLI::Validator Checked(const std::function<absl::Status(const std::string&)>& check) {
  return {[check](std::string& text) { return std::string(check(text).message()); }, ""};
}

// Without its limits in the help; the message of a failure names them.
template <typename T>
CLI::Validator InRange(T least, T greatest) {
  return CLI::Range(least, greatest).description("");
}

CLI::Validator IsDuration(bool may_be_zero) {
  return Checked([may_be_zero](const std::string& text) {
    absl::Duration duration;
    if (absl::Status status = ParseDuration(text, &duration); !status.ok()) return status;
    if (duration > kLongest || duration < (may_be_zero ? absl::ZeroDuration() : absl::Milliseconds(1))) {
      return absl::InvalidArgumentError(absl::StrCat("must be from ", may_be_zero ? "0" : "1ms", " to 24h"));
    }
    return absl::OkStatus();
  });
}

void AddLoad(CLI::App* verb, BenchOptions* options) {
  CLI::Option* concurrency =
      verb->add_option("--concurrency", options->concurrency, "Calls that are always under way (closed loop)")
          ->check(InRange(1, 100000))
          ->capture_default_str();
  CLI::Option* rate = verb->add_option("--rate", options->rate,
                                       "Calls per second, on a fixed schedule from which latencies count (open loop)")
                          ->check(InRange(0.001, 1e6))
                          ->excludes(concurrency);
  verb->add_option("--max-in-flight", options->max_in_flight,
                   "With --rate: under way at most; what is due beyond that is counted as not sent (default: 1000, or "
                   "what 512 MiB of tensors allow)")
      ->check(InRange(1, 100000))
      ->needs(rate);
  verb->add_option("--connections", options->connections, "Connections that share the calls")
      ->check(InRange(1, 1000))
      ->capture_default_str();
  // A name and not the enum, which CLI11 would print as a number.
  verb->add_option_function<std::string>(
          "--transport",
          [options](const std::string& name) {
            options->transport = name == "shm" ? Transport::kSharedMemory : Transport::kGrpc;
          },
          "How tensors travel: in the messages, or in memory shared with a server on this host")
      ->check(CLI::IsMember({"grpc", "shm"}))
      ->default_str("grpc");
}

void AddTensors(CLI::App* verb, Arguments* arguments) {
  verb->add_option("--shape", arguments->shapes, "Shape of the tensors, e.g. 256,64; several options: sent in turn")
      ->required()
      ->allow_extra_args(false)
      ->check(Checked([](const std::string& text) { return ParseShape(text).status(); }))
      ->type_name("SHAPE");
  verb->add_option("--dtype", arguments->dtype, "Type of the elements")
      ->check(CLI::IsMember({"float32", "float64", "float16", "bfloat16"}))
      ->capture_default_str();
  verb->add_option("--layout", arguments->layout, "Where the channels are: dimension 1 or the last one")
      ->check(CLI::IsMember({"channels_first", "channels_last"}))
      ->capture_default_str();
}

void AddTime(CLI::App* verb, Arguments* arguments) {
  verb->add_option("--duration", arguments->duration, "Length of a window, e.g. 5s or 500ms")
      ->check(IsDuration(/*may_be_zero=*/false))
      ->type_name("DURATION")
      ->capture_default_str();
  verb->add_option("--warmup", arguments->warmup, "Load before the first window, not counted")
      ->check(IsDuration(/*may_be_zero=*/true))
      ->type_name("DURATION")
      ->capture_default_str();
  verb->add_option("--windows", arguments->options.windows, "Windows, one after the other; they should agree")
      ->check(InRange(1, 100))
      ->capture_default_str();
}

}  // namespace

void AddBench(CLI::App* parent, Context* context) {
  const auto arguments = std::make_shared<Arguments>();
  BenchOptions* const options = &arguments->options;
  CLI::App* verb = parent->add_subcommand("bench", "Put a load on a server and measure it");
  verb->footer(
      "OK/S and MB/S count the calls that went well, and so do the latencies; MB are 10^6 bytes of elements.\n"
      "Percentiles are right to 1/256. Nothing is retried. Calls that take longer than --timeout have failed.\n"
      "Examples:\n"
      "  normctl bench --shape 256,64 --concurrency 8\n"
      "  normctl bench --shape 256,64 --rate 2000 --train-fraction 0.2\n"
      "  normctl bench --shape 32,64,56,56 --layer encoder.bn1 --duration 10s --output json");
  AddTensors(verb, arguments.get());
  verb->add_option("--train-fraction", options->train_fraction,
                   "Part of the calls that are training steps, 0 to 1; they change a --layer")
      ->check(InRange(0.0, 1.0))
      ->capture_default_str();
  verb->add_option("--layer", options->layer, "An existing layer (default: a new one, deleted at the end)")
      ->type_name(kLayerType);
  AddLoad(verb, options);
  AddTime(verb, arguments.get());
  verb->callback([arguments, options, context] {
    options->shapes.clear();
    for (const std::string& text : arguments->shapes) options->shapes.push_back(ParseShape(text).value());
    options->dtype = DTypeNames().at(arguments->dtype);
    options->layout = LayoutNames().at(arguments->layout);
    (void)ParseDuration(arguments->duration, &options->duration);
    (void)ParseDuration(arguments->warmup, &options->warmup);
    if (const absl::Status status = CheckOptions(*options); !status.ok()) {
      throw CLI::ValidationError("bench", std::string(status.message()));
    }
    context->layer = options->layer;
    context->action = [options = *options, context] { return Run(options, context); };
  });
}

}  // namespace normd::cli
