#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/interrupt.h"
#include "client/cli/terminal.h"
#include "client/cli/top_frame.h"
#include "client/cli/verbs.h"

namespace normd::cli {
namespace {

// A server that does not answer must not keep the keys from being read for long.
constexpr absl::Duration kLongestCall = absl::Seconds(2);

absl::Status ShowLive(Context* context, absl::Duration interval, int layers) {
  if (!Terminal::Available()) {
    return absl::FailedPreconditionError("stdin and stdout are no terminal that can be redrawn: try top --once");
  }
  CallOptions options;
  options.timeout = std::min(kLongestCall, context->client_options().timeout);
  // A server that is not there at the start is an error, one that goes later is waited for.
  absl::StatusOr<ServerStatistics> before = context->client().GetStatistics(layers, options);
  if (!before.ok()) return before.status();
  const Interrupt interrupt;
  Terminal terminal;
  ServerStatistics now = *before;
  std::string trouble;
  // The first picture shows the whole time since the start.
  terminal.Show(TopFrame(context->server, {}, now));
  while (!interrupt.asked()) {
    const absl::Time next = absl::Now() + interval;
    for (absl::Duration left = interval; left > absl::ZeroDuration(); left = next - absl::Now()) {
      const int key = terminal.WaitForKey(left);
      if (key == 'q' || key == 'Q' || key < 0 || interrupt.asked()) return absl::OkStatus();
    }
    absl::StatusOr<ServerStatistics> answer = context->client().GetStatistics(layers, options);
    if (answer.ok()) {
      *before = std::move(now);
      now = *std::move(answer);
      trouble.clear();
    } else {
      trouble = absl::StrCat("NO ANSWER, what follows is old: ", answer.status().message(), "\n");
    }
    terminal.Show(absl::StrCat(trouble, TopFrame(context->server, *before, now)));
  }
  return absl::OkStatus();
}

absl::Status ShowOnce(Context* context, absl::Duration interval, int layers) {
  absl::StatusOr<ServerStatistics> before = context->client().GetStatistics(layers);
  if (!before.ok()) return before.status();
  absl::SleepFor(interval);
  absl::StatusOr<ServerStatistics> now = context->client().GetStatistics(layers);
  if (now.ok()) context->printer().PrintStatistics(context->server, *before, *now);
  return now.status();
}

}  // namespace

void AddTop(CLI::App* parent, Context* context) {
  struct Arguments {
    std::string interval = "2s";
    int layers = 100;
    bool once = false;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App* verb = parent->add_subcommand("top", "Show what the server does: calls, latencies, memory, busiest layers");
  verb->footer("q or Ctrl-C ends it. Needs no --metrics-listen on the server.");
  const auto is_interval = [](const std::string& text) {
    absl::Duration interval;
    return std::string(ParseTimeout(text, &interval).message());
  };
  verb->add_option("--interval", arguments->interval, "Time between two pictures, and that the rates are of")
      ->check(CLI::Validator(is_interval, ""))
      ->type_name("DURATION")
      ->capture_default_str();
  verb->add_option("--layers", arguments->layers, "Most layers to show")
      ->check(CLI::Range(1, 10'000))
      ->capture_default_str();
  verb->add_flag("--once", arguments->once, "Print one picture, after one interval, and end");
  verb->callback([arguments, context] {
    if (context->output == "json" && !arguments->once) {
      throw CLI::ValidationError("--output", "json needs --once with top");
    }
    context->action = [arguments, context] {
      absl::Duration interval;
      (void)ParseTimeout(arguments->interval, &interval);
      return arguments->once ? ShowOnce(context, interval, arguments->layers)
                             : ShowLive(context, interval, arguments->layers);
    };
  });
}

}  // namespace normd::cli
