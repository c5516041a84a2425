#include "client/cli/completion_scripts.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/cli/verbs.h"

namespace normd::cli {
namespace {

struct Value {
  // The words there are; empty: any.
  std::vector<std::string> choices;
  bool is_file = false;
  bool is_layer = false;
};

struct Option {
  // As typed: "--eps", "-h".
  std::vector<std::string> names;
  std::string help;
  bool takes_value = false;
  Value value;
};

struct Verb {
  // "" for the root, "/layer", "/layer/create".
  std::string path;
  std::string help;
  std::vector<std::string> verbs;
  std::vector<Option> options;
  std::vector<Value> positionals;
};

// CLI11 shows the words of IsMember as "TEXT:{a,b}".
std::vector<std::string> ChoicesOf(const std::string& type_name) {
  const std::size_t open = type_name.find('{');
  const std::size_t close = type_name.find('}');
  if (open == std::string::npos || close == std::string::npos) return {};
  return CLI::detail::split(type_name.substr(open + 1, close - open - 1), ',');
}

Value ValueOf(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  return {ChoicesOf(type), type == kFileType || type == "NUMBERS", type == kLayerType};
}

void Walk(const CLI::App& app, const std::string& path, std::vector<Verb>* verbs) {
  Verb verb;
  verb.path = path;
  verb.help = app.get_description();
  for (const CLI::Option* option : app.get_options()) {
    if (option->nonpositional()) {
      Option out;
      for (const std::string& name : option->get_snames()) out.names.push_back("-" + name);
      for (const std::string& name : option->get_lnames()) out.names.push_back("--" + name);
      for (const std::string& name : option->get_fnames()) {
        const std::string typed = (name.size() == 1 ? "-" : "--") + name;
        if (std::find(out.names.begin(), out.names.end(), typed) == out.names.end()) out.names.push_back(typed);
      }
      out.help = option->get_description();
      out.takes_value = option->get_items_expected_max() > 0 && option->get_expected_min() > 0;
      out.value = ValueOf(*option);
      verb.options.push_back(out);
    } else {
      verb.positionals.push_back(ValueOf(*option));
    }
  }
  const std::size_t at = verbs->size();
  verbs->push_back(verb);
  for (const CLI::App* child : app.get_subcommands([](const CLI::App*) { return true; })) {
    (*verbs)[at].verbs.push_back(child->get_name());
    Walk(*child, absl::StrCat(path, "/", child->get_name()), verbs);
  }
}

std::vector<Verb> VerbsOf(const CLI::App& root) {
  std::vector<Verb> verbs;
  Walk(root, "", &verbs);
  return verbs;
}

// Within '...' of a POSIX shell (fish reads the same).
std::string Quoted(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

// Bash code that offers the values of an option or a positional.
std::string OfferInBash(const Value& value) {
  if (!value.choices.empty()) return absl::StrCat("words='", absl::StrJoin(value.choices, " "), "'");
  if (value.is_layer) return "words=$(normctl layer list --names --timeout 2s 2>/dev/null)";
  if (value.is_file) return "files=1";
  return ":";
}

// A pattern of bash's `case "$path $option"`. Options of the root are understood behind every verb.
std::string Pattern(const std::string& path, const std::vector<std::string>& names) {
  const std::string start = path.empty() ? "*" : "";
  return absl::StrJoin(names, "|", [&](std::string* out, const std::string& name) {
    absl::StrAppend(out, start, "'", path, " ", name, "'");
  });
}

}  // namespace

std::string BashCompletion(const CLI::App& root) {
  const std::vector<Verb> verbs = VerbsOf(root);
  std::string paths;
  std::string with_value;
  std::string values;
  std::string words;
  std::string positionals;
  std::string root_options;
  for (const Option& option : verbs.front().options)
    absl::StrAppend(&root_options, " ", absl::StrJoin(option.names, " "));
  for (const Verb& verb : verbs) {
    if (!verb.path.empty()) absl::StrAppend(&paths, paths.empty() ? "" : "|", verb.path);
    std::string options = verb.path.empty() ? "" : root_options;
    for (const Option& option : verb.options) {
      absl::StrAppend(&options, " ", absl::StrJoin(option.names, " "));
      if (!option.takes_value) continue;
      const std::string pattern = Pattern(verb.path, option.names);
      absl::StrAppend(&with_value, with_value.empty() ? "" : "|", pattern);
      absl::StrAppend(&values, "    ", pattern, ") ", OfferInBash(option.value), " ;;\n");
    }
    absl::StrAppend(&words, "      '", verb.path, "') words='", absl::StrJoin(verb.verbs, " "), options, "' ;;\n");
    for (std::size_t i = 0; i < verb.positionals.size(); ++i) {
      absl::StrAppend(&positionals, "      '", verb.path, " ", i, "') ", OfferInBash(verb.positionals[i]), " ;;\n");
    }
    if (!verb.verbs.empty()) {
      absl::StrAppend(&positionals, "      '", verb.path, " 0') words='", absl::StrJoin(verb.verbs, " "), "' ;;\n");
    }
  }
  return absl::StrCat(
      "# bash completion for normctl; made by `normctl completion bash`.\n"
      "_normctl() {\n"
      "  local current=${COMP_WORDS[COMP_CWORD]} path= option= words= files= count=0 i word\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    word=${COMP_WORDS[i]}\n"
      "    # Bash splits HOST:PORT at the colon, and --option=value at the equals sign.\n"
      "    if [[ $word == : ]]; then i=$((i + 1)); continue; fi\n"
      "    if [[ $word == = ]]; then continue; fi\n"
      "    if [[ -n $option ]]; then option=; continue; fi\n"
      "    case \"$path $word\" in\n"
      "      ",
      with_value,
      ") option=$word; continue ;;\n"
      "    esac\n"
      "    if [[ $word == -?* ]]; then continue; fi\n"
      "    case \"$path/$word\" in\n"
      "      ",
      paths,
      ") path=$path/$word; count=0 ;;\n"
      "      *) count=$((count + 1)) ;;\n"
      "    esac\n"
      "  done\n"
      "  if [[ $current == = ]]; then current=; fi\n"
      "  if [[ -n $option ]]; then\n"
      "    case \"$path $option\" in\n",
      values,
      "    esac\n"
      "  elif [[ $current == -* ]]; then\n"
      "    case \"$path\" in\n",
      words,
      "    esac\n"
      "  else\n"
      "    case \"$path $count\" in\n",
      positionals,
      "    esac\n"
      "  fi\n"
      "  if [[ -n $files ]]; then\n"
      "    compopt -o filenames 2>/dev/null\n"
      "    COMPREPLY=($(compgen -f -- \"$current\"))\n"
      "  else\n"
      "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "  fi\n"
      "}\n"
      "complete -F _normctl normctl\n");
}

std::string ZshCompletion(const CLI::App& root) {
  // zsh runs bash's functions as they are, with arrays that count from 0.
  return absl::StrCat(
      "#compdef normctl\n# zsh completion for normctl; made by `normctl completion zsh`.\n"
      "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }\n"
      "autoload -Uz bashcompinit && bashcompinit\n",
      BashCompletion(root));
}

std::string FishCompletion(const CLI::App& root) {
  const std::vector<Verb> verbs = VerbsOf(root);
  std::vector<std::string> paths;
  std::vector<std::string> with_value;
  for (const Verb& verb : verbs) {
    if (!verb.path.empty()) paths.push_back(verb.path);
    for (const Option& option : verb.options) {
      if (option.takes_value) with_value.insert(with_value.end(), option.names.begin(), option.names.end());
    }
  }
  std::string out = absl::StrCat(
      "# fish completion for normctl; made by `normctl completion fish`.\n"
      "function __normctl_at\n"
      "    set -l path\n"
      "    set -l count 0\n"
      "    set -l skip 0\n"
      "    for word in (commandline -opc)[2..-1]\n"
      "        if test $skip = 1\n"
      "            set skip 0\n"
      "        else if contains -- $word ",
      absl::StrJoin(with_value, " "),
      "\n"
      "            set skip 1\n"
      "        else if contains -- \"$path/$word\" ",
      absl::StrJoin(paths, " "),
      "\n"
      "            set path \"$path/$word\"\n"
      "            set count 0\n"
      "        else if not string match -q -- '-*' $word\n"
      "            set count (math $count + 1)\n"
      "        end\n"
      "    end\n"
      "    test \"$path\" = \"$argv[1]\"; and begin; test (count $argv) = 1; or test $count = \"$argv[2]\"; end\n"
      "end\n"
      "complete -c normctl -f\n");
  const auto append_value = [&](const Value& value) {
    if (value.is_file) absl::StrAppend(&out, " -F");
    if (!value.choices.empty()) absl::StrAppend(&out, " -a ", Quoted(absl::StrJoin(value.choices, " ")));
    if (value.is_layer) absl::StrAppend(&out, " -a '(normctl layer list --names --timeout 2s 2>/dev/null)'");
  };
  for (const Verb& verb : verbs) {
    for (const std::string& name : verb.verbs) {
      const std::string child = absl::StrCat(verb.path, "/", name);
      const auto found = std::find_if(verbs.begin(), verbs.end(), [&](const Verb& v) { return v.path == child; });
      absl::StrAppend(&out, "complete -c normctl -n '__normctl_at \"", verb.path, "\" 0' -a ", name, " -d ",
                      Quoted(found->help), "\n");
    }
    for (std::size_t i = 0; i < verb.positionals.size(); ++i) {
      absl::StrAppend(&out, "complete -c normctl -n '__normctl_at \"", verb.path, "\" ", i, "'");
      append_value(verb.positionals[i]);
      absl::StrAppend(&out, "\n");
    }
    for (const Option& option : verb.options) {
      absl::StrAppend(&out, "complete -c normctl");
      if (!verb.path.empty()) absl::StrAppend(&out, " -n '__normctl_at \"", verb.path, "\"'");
      for (const std::string& name : option.names) {
        absl::StrAppend(&out, absl::StartsWith(name, "--") ? " -l " : " -s ", name.substr(name.find_first_not_of('-')));
      }
      if (option.takes_value) absl::StrAppend(&out, " -r");
      append_value(option.value);
      absl::StrAppend(&out, " -d ", Quoted(option.help), "\n");
    }
  }
  return out;
}

}  // namespace normd::cli
