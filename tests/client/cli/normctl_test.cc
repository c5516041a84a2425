#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/npy.h"
#include "tests/client/cli/normctl_fixture.h"

namespace normd {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using tests::NormctlTest;
using tests::Outcome;

TEST_F(NormctlTest, TheLifeOfALayer) {
  const json created = RunJson(
      "layer create net.bn1 --num-channels 2 --preset pytorch --eps 0.5 --update-weight 0.25 "
      "--non-finite-policy skip_channel --no-affine --request-id create-1");
  EXPECT_EQ(created["name"], "net.bn1");
  EXPECT_EQ(created["preset"], "pytorch");
  EXPECT_EQ(created["version"], 1);
  const json want = {{"num_channels", 2},
                     {"eps", 0.5},
                     {"averaging", "exponential"},
                     {"update_weight", 0.25},
                     {"running_var_estimator", "sample"},
                     {"normalize_training_with", "batch"},
                     {"affine", false},
                     {"track_running_stats", true},
                     {"non_finite_policy", "skip_channel"},
                     {"frozen", false}};
  EXPECT_EQ(created["config"], want);

  const Outcome again = Run("layer create net.bn1 --num-channels 2");
  EXPECT_EQ(again.code, 1);
  EXPECT_THAT(again.err, AllOf(StartsWith("error: ALREADY_EXISTS: "), HasSubstr("net.bn1")));

  RunJson("layer create net.bn2 --num-channels 3 --preset standard_scaler");
  RunJson("layer create other --num-channels 3 --averaging pooled");
  EXPECT_EQ(RunJson("layer list --prefix net.")["layers"].size(), 2U);
  EXPECT_EQ(Run("layer list --names").out, "net.bn1\nnet.bn2\nother\n");
  EXPECT_THAT(Run("layer list").out, AllOf(HasSubstr("NAME"), HasSubstr("standard_scaler"), HasSubstr("pooled")));

  const json got = RunJson("layer get net.bn1");
  EXPECT_EQ(got["state"]["running_var"], json({1.0, 1.0}));
  EXPECT_EQ(got["etag"], created["etag"]);

  const json updated =
      RunJson(absl::StrCat("layer update net.bn1 --eps 0.125 --clip 3 --etag ", created["etag"].get<std::string>()));
  EXPECT_EQ(updated["config"]["eps"], 0.125);
  EXPECT_EQ(updated["config"]["clip"], 3.0);
  EXPECT_EQ(updated["config"]["update_weight"], 0.25) << "what is not named stays";
  EXPECT_FALSE(RunJson("layer update net.bn1 --no-clip")["config"].contains("clip"));
  const Outcome stale = Run(absl::StrCat("layer update net.bn1 --eps 1 --etag ", created["etag"].get<std::string>()));
  EXPECT_EQ(stale.code, 1);
  EXPECT_THAT(stale.err, AllOf(StartsWith("error: ABORTED: "), HasSubstr("hint: ")));

  RunJson("layer set-state net.bn1 --running-mean 1,2 --running-var 3,4 --num-batches-tracked 9");
  const json state = RunJson("layer get net.bn1")["state"];
  EXPECT_EQ(state["running_mean"], json({1.0, 2.0}));
  EXPECT_EQ(state["running_var"], json({3.0, 4.0}));
  EXPECT_EQ(state["num_batches_tracked"], 9);

  RunJson("layer reset net.bn1");
  EXPECT_EQ(RunJson("layer get net.bn1")["state"]["running_mean"], json({0.0, 0.0}));

  EXPECT_EQ(Run("layer delete net.bn1").out, "deleted net.bn1\n");
  EXPECT_EQ(RunJson("layer delete net.bn2")["deleted"], "net.bn2");
  EXPECT_EQ(Run("layer list --names").out, "other\n");
}

TEST_F(NormctlTest, AStateTravelsAsJson) {
  RunJson("layer create a --num-channels 2");
  RunJson(
      "layer set-state a --running-mean 0.1,-7 --running-var 0.3,1e-9 --sample-count 4,4 --num-batches-tracked 2 "
      "--gamma 2,3 --beta 4,5");
  EXPECT_EQ(Run("layer get a --output json > $D/a.json").code, 0);
  RunJson("layer create b --num-channels 2");
  EXPECT_EQ(Run("layer set-state b --from $D/a.json").code, 0);
  EXPECT_EQ(RunJson("layer get b")["state"], RunJson("layer get a")["state"]);
  EXPECT_EQ(RunJson("layer get b")["content_hash"], RunJson("layer get a")["content_hash"]);
}

TEST_F(NormctlTest, FrozenLayersForksAndWatches) {
  RunJson("layer create a --num-channels 1");
  EXPECT_EQ(RunJson("layer freeze a")["config"]["frozen"], true);
  EXPECT_THAT(Run("layer reset a").err, StartsWith("error: FAILED_PRECONDITION: "));
  EXPECT_THAT(Run("layer get a").out, HasSubstr("frozen"));
  EXPECT_EQ(RunJson("layer unfreeze a")["config"]["frozen"], false);
  const json fork = RunJson("layer fork a b --share-affine --reset-statistics");
  EXPECT_EQ(fork["name"], "b");
  EXPECT_EQ(fork["affine_group"], RunJson("layer get a")["affine_group"]);
  RunJson("layer set-state a --gamma 3 --beta 4");
  EXPECT_EQ(RunJson("layer get b")["state"]["gamma"], json({3.0}));
  EXPECT_FALSE(RunJson("layer fork a c --version 1").contains("affine_group"));

  // One object a line.
  const std::vector<std::string> lines = absl::StrSplit(Run("watch a b --count 2 --output json").out, '\n');
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(json::parse(lines[0])["version"], RunJson("layer get a")["version"]);
  EXPECT_FALSE(json::parse(lines[0]).contains("state"));
  EXPECT_EQ(json::parse(lines[1])["name"], "b");
  EXPECT_EQ(json::parse(Run("watch a --with-state --count 1 --output json").out)["state"]["beta"], json({4.0}));
  EXPECT_THAT(Run("watch --prefix c --count 1").out, StartsWith("c  version 1  "));
  EXPECT_THAT(Run("watch nobody").err, StartsWith("error: NOT_FOUND: "));
  EXPECT_EQ(Run("watch a --prefix b").code, 2);
}

TEST_F(NormctlTest, SnapshotsAndBackups) {
  RunJson("layer create m.a --num-channels 1");
  RunJson("layer set-state m.a --running-mean 5 --running-var 6");
  const json created = RunJson("snapshot create before --prefix m.");
  EXPECT_EQ(created["snapshots"][0]["num_layers"], 1);
  EXPECT_THAT(Run("snapshot list").out, AllOf(HasSubstr("before"), HasSubstr("m.*")));
  RunJson("layer reset m.a");
  EXPECT_EQ(Run("snapshot restore before").out, "restored 1 layer from before\n");
  EXPECT_EQ(RunJson("layer get m.a")["state"]["running_mean"], json({5.0}));
  EXPECT_EQ(RunJson("snapshot restore before --layer m.a --as copy")["num_layers"], 1);
  EXPECT_EQ(RunJson("layer get copy")["state"]["running_var"], json({6.0}));
  EXPECT_EQ(Run("snapshot delete before").out, "deleted before\n");
  EXPECT_THAT(Run("snapshot restore before").err, StartsWith("error: NOT_FOUND: "));
  // This server keeps its state in memory.
  EXPECT_THAT(Run("backup $D/b.db").err, AllOf(StartsWith("error: FAILED_PRECONDITION: "), HasSubstr("memory")));
  EXPECT_THAT(Run("restore $D/none.db").err, HasSubstr("none.db: cannot read"));
}

TEST_F(NormctlTest, TrainInferAndDenormalizeFollowTheFormulas) {
  // One channel: 1, 2, 3, 6 with mean 3 and population variance 3.5.
  RunJson("layer create a --num-channels 1 --eps 0.5 --update-weight 0.5");
  WriteFloats("x.npy", {4, 1}, {1, 2, 3, 6});
  const json trained = RunJson("train a $D/x.npy $D/y.npy");
  EXPECT_EQ(trained["batch_mean"], json({3.0}));
  EXPECT_EQ(trained["batch_var"], json({3.5}));
  EXPECT_EQ(trained["num_batches_tracked"], 1);
  EXPECT_EQ(trained["version"], 2);
  EXPECT_EQ(trained["y"]["path"], directory_.Path("/y.npy"));
  const std::vector<double> y = cli::ReadNumbers(directory_.Path("y.npy")).value();
  EXPECT_THAT(y, ElementsAre(-1.0, -0.5, 0.0, 1.5)) << "1 / sqrt(3.5 + 0.5) is 0.5";

  // running_mean 1.5, running_var 0.5 * 1 + 0.5 * 3.5 = 2.25.
  const json inferred = RunJson("infer a $D/x.npy");
  EXPECT_EQ(inferred["y"]["shape"], json({4, 1}));
  EXPECT_EQ(inferred["y"]["dtype"], "float32");
  for (const auto& [i, x] : std::vector<std::pair<int, double>>{{0, 1}, {1, 2}, {2, 3}, {3, 6}}) {
    EXPECT_NEAR(inferred["y"]["data"][i].get<double>(), (x - 1.5) / std::sqrt(2.75), 1e-6);
  }
  EXPECT_EQ(inferred["version"], 2);
  ASSERT_EQ(Run("infer a $D/x.npy $D/i.npy").code, 0);
  ASSERT_EQ(Run("denormalize a $D/i.npy $D/d.npy").code, 0);
  const std::vector<double> back = cli::ReadNumbers(directory_.Path("d.npy")).value();
  EXPECT_THAT(back, ::testing::Pointwise(::testing::DoubleNear(1e-5), {1, 2, 3, 6}));

  const json skipped = RunJson("train a $D/x.npy --skip-update");
  EXPECT_EQ(skipped["version"], 2);
  EXPECT_FALSE(skipped.contains("y"));
  EXPECT_EQ(RunJson("train a $D/x.npy --request-id r")["replayed"], false);
  EXPECT_EQ(RunJson("train a $D/x.npy --request-id r")["replayed"], true);
  EXPECT_EQ(RunJson("train a $D/x.npy --gamma 2 --beta 7 $D/y.npy")["num_batches_tracked"], 3);
  EXPECT_EQ(cli::ReadNumbers(directory_.Path("y.npy")).value()[2], 7.0);
  EXPECT_THAT(Run("describe a").out, AllOf(HasSubstr("RUNNING_MEAN"), HasSubstr("sqrt(running_var)")));
  EXPECT_EQ(RunJson("describe a")["state"]["gamma"], json({2.0}));

  const Outcome pinned = Run("infer a $D/x.npy --version 9");
  EXPECT_EQ(pinned.code, 1);
  EXPECT_THAT(pinned.err, StartsWith("error: FAILED_PRECONDITION: "));
}

TEST_F(NormctlTest, ADashIsStdinAndStdout) {
  RunJson("layer create a --num-channels 1");
  WriteFloats("x.npy", {2, 1}, {1, 2});
  const Outcome piped = Run("infer a - - < $D/x.npy");
  EXPECT_EQ(piped.code, 0) << piped.err;
  const auto view = cli::ParseNpy(piped.out);
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_THAT(view->shape, ElementsAre(2, 1));
  EXPECT_THAT(piped.err, HasSubstr("content_hash"));
}

TEST_F(NormctlTest, ChannelsLast) {
  RunJson("layer create a --num-channels 3");
  WriteFloats("x.npy", {2, 2, 3}, {1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3});
  EXPECT_EQ(RunJson("train a $D/x.npy --layout channels_last")["batch_mean"], json({1.0, 2.0, 3.0}));
  const Outcome wrong = Run("infer a $D/x.npy");
  EXPECT_EQ(wrong.code, 1);
  EXPECT_THAT(wrong.err, AllOf(StartsWith("error: INVALID_ARGUMENT: "), HasSubstr("layer 'a'"), HasSubstr("3")));
}

TEST_F(NormctlTest, NumpysOwnFilesGoThrough) {
  if (Shell("/usr/bin/python3 -c 'import numpy'").code != 0) GTEST_SKIP() << "no NumPy";
  RunJson("layer create a --num-channels 3 --eps 1e-5");
  const Outcome saved = Shell(
      "/usr/bin/python3 -c \"import numpy as n; x = n.arange(24, dtype='f8').reshape(4, 3, 2) ** 2; "
      "n.save('$D/x.npy', x); n.save('$D/f.npy', n.asfortranarray(x)); n.save('$D/b.npy', x.astype('>f8')); "
      "n.save('$D/o.npy', n.array([{}])); n.lib.format.write_array(open('$D/v3.npy', 'wb'), x, (3, 0))\"");
  ASSERT_EQ(saved.code, 0) << saved.err;
  ASSERT_EQ(Run("train a $D/x.npy $D/y.npy").code, 0);
  const Outcome checked = Shell(
      "/usr/bin/python3 -c \"import numpy as n; x = n.load('$D/x.npy'); y = n.load('$D/y.npy'); "
      "m = x.mean((0, 2), keepdims=True); v = x.var((0, 2), keepdims=True); "
      "assert y.dtype == n.float64 and y.shape == x.shape; "
      "n.testing.assert_allclose(y, (x - m) / n.sqrt(v + 1e-5), rtol=1e-12, atol=1e-12)\"");
  EXPECT_EQ(checked.code, 0) << checked.err;

  // float16 comes back as float16, rounded once, and its numbers are printed.
  ASSERT_EQ(
      Shell("/usr/bin/python3 -c \"import numpy as n; n.save('$D/h.npy', n.load('$D/x.npy').astype('f2'))\"").code, 0);
  ASSERT_EQ(Run("train a $D/h.npy $D/hy.npy --skip-update").code, 0);
  const Outcome half = Shell(
      "/usr/bin/python3 -c \"import numpy as n; x = n.load('$D/h.npy').astype('f8'); y = n.load('$D/hy.npy'); "
      "m = x.mean((0, 2), keepdims=True); v = x.var((0, 2), keepdims=True); "
      "assert y.dtype == n.float16 and y.shape == x.shape; "
      "n.testing.assert_allclose(y.astype('f8'), (x - m) / n.sqrt(v + 1e-5), rtol=1.001 * 2.0**-11, atol=1e-12)\"");
  EXPECT_EQ(half.code, 0) << half.err;
  const json printed = RunJson("infer a $D/h.npy")["y"];
  EXPECT_EQ(printed["dtype"], "float16");
  EXPECT_EQ(printed["data"].size(), 24U);
  EXPECT_THAT(Run("infer a $D/h.npy").out, HasSubstr("float16 [4, 3, 2]  "));

  EXPECT_EQ(RunJson("infer a $D/v3.npy")["y"]["data"], RunJson("infer a $D/x.npy")["y"]["data"]);
  EXPECT_THAT(Run("infer a $D/f.npy").err, AllOf(HasSubstr("f.npy: "), HasSubstr("Fortran order")));
  EXPECT_THAT(Run("infer a $D/b.npy").err, AllOf(HasSubstr("b.npy: "), HasSubstr("big-endian")));
  EXPECT_THAT(Run("infer a $D/o.npy").err, AllOf(HasSubstr("o.npy: "), HasSubstr("Python objects")));
}

TEST_F(NormctlTest, FailuresExitWith1AndSayWhatToDo) {
  RunJson("layer create encoder.bn1 --num-channels 2");
  const Outcome unknown = Run("describe encodr.bn1");
  EXPECT_EQ(unknown.code, 1);
  EXPECT_THAT(unknown.out, IsEmpty());
  EXPECT_THAT(unknown.err, AllOf(StartsWith("error: NOT_FOUND: "), HasSubstr("did you mean encoder.bn1?"),
                                 HasSubstr("normctl layer list")));
  EXPECT_THAT(unknown.err, Not(HasSubstr("\033"))) << "no colours when nobody looks";

  const Outcome unreachable = Run("layer list --server unix:/nonexistent/normd.sock");
  EXPECT_EQ(unreachable.code, 1);
  EXPECT_THAT(unreachable.err, AllOf(StartsWith("error: UNAVAILABLE: "), HasSubstr("unix:/nonexistent/normd.sock"),
                                     HasSubstr("Start one with `normd`")));

  const Outcome no_file = Run("infer encoder.bn1 $D/nope.npy");
  EXPECT_EQ(no_file.code, 1);
  EXPECT_THAT(no_file.err, AllOf(HasSubstr("nope.npy"), Not(HasSubstr("did you mean"))));

  EXPECT_EQ(Run("layer get 'bad name'").code, 1);
  EXPECT_EQ(Run("layer list >/dev/full").code, 1) << "what could not be printed has not been done";
}

TEST_F(NormctlTest, AWrongLineExitsWith2) {
  for (const char* line :
       {"", "layer", "bogus", "layer get", "layer create a", "layer create a --num-channels many",
        "layer create a --num-channels 2 --averaging median", "layer update a", "layer update a --clip 1 --no-clip",
        "layer list --output yaml", "layer list --timeout soon", "layer list --timeout 0", "infer a", "infer a b c d",
        "train a b --gamma 1", "completion csh", "layer list --bogus"}) {
    const Outcome outcome = Run(line);
    EXPECT_EQ(outcome.code, 2) << line;
    EXPECT_THAT(outcome.err, Not(IsEmpty())) << line;
    EXPECT_THAT(outcome.out, IsEmpty()) << line;
  }
  for (const char* line : {"--help", "layer --help", "train --help", "--version"}) {
    EXPECT_EQ(Run(line).code, 0) << line;
    EXPECT_THAT(Run(line).out, Not(IsEmpty())) << line;
  }
}

TEST_F(NormctlTest, GlobalOptionsWorkBeforeAndBehindTheVerb) {
  EXPECT_EQ(Run("--output json health").out, Run("health --output json").out);
  EXPECT_EQ(Shell(absl::StrCat("env -u NORMD_SERVER ", NORMCTL_BINARY, " health --server ", server_.address())).code,
            0);
}

TEST_F(NormctlTest, HealthAndVersion) {
  EXPECT_EQ(RunJson("health")["status"], "SERVING");
  EXPECT_EQ(RunJson("health --service normd.v1.LayerService")["status"], "SERVING");
  EXPECT_EQ(Run("health --service nobody").code, 1);
  EXPECT_EQ(RunJson("version")["api"], "normd.v1");
  server_.server().Shutdown(absl::ZeroDuration());
  EXPECT_EQ(Run("health --timeout 500ms").code, 1);
}

// The words that bash offers at the end of `line`.
class CompletionTest : public NormctlTest {
 protected:
  std::vector<std::string> Offers(const std::vector<std::string>& words) {
    std::string quoted;
    for (const std::string& word : words) absl::StrAppend(&quoted, " '", word, "'");
    const Outcome outcome = Shell(absl::StrCat(
        "cd $D && PATH=$(dirname ", NORMCTL_BINARY, "):$PATH bash -c 'source <(normctl completion bash); COMP_WORDS=(",
        "\"$@\"); COMP_CWORD=$(($# - 1)); _normctl; for w in \"${COMPREPLY[@]}\"; do echo \"$w\"; done' bash", quoted));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_THAT(outcome.err, IsEmpty());
    return absl::StrSplit(outcome.out, '\n', absl::SkipEmpty());
  }
};

TEST_F(CompletionTest, OffersWordsOptionsValuesLayersAndFiles) {
  RunJson("layer create encoder.bn1 --num-channels 2");
  RunJson("layer create decoder.bn1 --num-channels 2");
  WriteFloats("x.npy", {2, 1}, {1, 2});
  EXPECT_THAT(Offers({"normctl", "la"}), ElementsAre("layer"));
  EXPECT_THAT(Offers({"normctl", "layer", ""}), ElementsAre("create", "get", "list", "update", "delete", "reset",
                                                            "set-state", "fork", "freeze", "unfreeze"));
  EXPECT_THAT(Offers({"normctl", "layer", "create", "--upd"}), ElementsAre("--update-weight"));
  EXPECT_THAT(Offers({"normctl", "layer", "create", "a", "--no-a"}), ElementsAre("--no-affine"));
  EXPECT_THAT(Offers({"normctl", "layer", "create", "a", "--averaging", "expo"}),
              ElementsAre("exponential", "exponential_debiased"));
  EXPECT_THAT(Offers({"normctl", "layer", "list", "--output", ""}), ElementsAre("table", "json"));
  EXPECT_THAT(Offers({"normctl", "--output", "json", "comp"}), ElementsAre("completion"));
  EXPECT_THAT(Offers({"normctl", "--server", "a", ":", "1", "layer", "get", "enc"}), ElementsAre("encoder.bn1"));
  EXPECT_THAT(Offers({"normctl", "infer", "dec"}), ElementsAre("decoder.bn1"));
  EXPECT_THAT(Offers({"normctl", "infer", "decoder.bn1", "x"}), ElementsAre("x.npy"));
  EXPECT_THAT(Offers({"normctl", "bench", "--shape", "8,4", "--layer", "enc"}), ElementsAre("encoder.bn1"));
  EXPECT_THAT(Offers({"normctl", "bench", "--dtype", "float"}), ElementsAre("float32", "float64", "float16"));
  EXPECT_THAT(Offers({"normctl", "bench", "--w"}), ElementsAre("--warmup", "--windows"));
  EXPECT_THAT(Offers({"normctl", "completion", ""}), ::testing::UnorderedElementsAre("bash", "zsh", "fish"));
}

TEST_F(CompletionTest, EveryShellsScriptNamesEveryVerbAndOption) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const Outcome outcome = Run(absl::StrCat("completion ", shell));
    EXPECT_EQ(outcome.code, 0);
    for (const char* word : {"set-state", "denormalize", "describe", "update-weight", "request-id", "server", "bench",
                             "train-fraction", "max-in-flight"}) {
      EXPECT_THAT(outcome.out, HasSubstr(word)) << shell;
    }
  }
}

}  // namespace
}  // namespace normd
