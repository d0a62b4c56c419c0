#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "metala/base/error.h"
#include "metala/harness/fixed_time.h"
#include "metala/harness/refusal.h"
#include "metala/io/file.h"
#include "metala/text/jinja_template.h"

namespace metala {
namespace {

using harness::fixed_now;
using nlohmann::ordered_json;

std::string render(const std::string& source,
                   const ordered_json& variables = ordered_json::object(),
                   const jinja::RenderOptions& options = {}) {
  return jinja::Template(source).render(variables, options);
}

std::string error_of(const std::string& source,
                     const ordered_json& variables = ordered_json::object()) {
  return harness::refusal_of([&] { render(source, variables); });
}

TEST(Jinja, EveryConstructRendersAsTheReferenceDoes) {
  const std::string path = METALA_SOURCE_DIR "/tests/chat_templates/constructs.json";
  const auto goldens = ordered_json::parse(read_file(path, 1 << 24));
  ASSERT_GT(goldens["cases"].size(), 100u);
  for (const auto& golden : goldens["cases"]) {
    const auto source = golden["template"].get<std::string>();
    std::string text;
    try {
      text = render(source, goldens["variables"], {{}, fixed_now()});
    } catch (const Error& e) {
      text = std::string("Error: ") + e.what();
    }
    EXPECT_EQ(text, golden["text"].get<std::string>()) << source;
  }
}

TEST(Jinja, ErrorsNameTheLineAndWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\n{% if x %}\nb", "line 2: the block that begins here misses its endif"},
      {"{% endif %}", "line 1: {% endif %} is not expected here"},
      {"\n{{ 1 +", "line 2: a tag that does not end with }}"},
      {"{# x", "line 1: a comment that does not end with #}"},
      {"{{ 'abc }}", "line 1: a string that does not end"},
      {"{{ a b }}", "line 1: 'b' where '}}' is expected"},
      {"{{ $ }}", "line 1: an unexpected character in a tag"},
      {"{{ (1] }}", "line 1: ] without ["},
      {"{{ 99999999999999999999 }}", "line 1: number 99999999999999999999 is out of range"},
      {"{{ '\\ud800' }}", "line 1: an escape in a string is not a character"},
      {"{% include 'x' %}", "line 1: {% include %} is not supported in chat templates"},
      {"{% call 1 %}{% endcall %}", "line 1: {% call %} needs a call"},
      {"{{ dict(**1) }}", "line 1: ** of an integer, not of a dict"},
      {"{{ range(*1) }}", "line 1: an integer is not a list"},
      {"{{ range(*[1], 2) }}", "line 1: an argument after a named one"},
      {"{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}",
       "line 1: this macro was not called by a call block, so it cannot be called"},
      {"{% break %}", "line 1: break outside of a for"},
      {"{% for x in y recursive %}{% endfor %}", "line 1: recursive loops are not supported"},
      {"{% set true = 1 %}", "line 1: true cannot be set"},
      {"\n\n{{ missing.name }}", "line 3: 'missing' is undefined"},
      {"{{ {}.a.b }}", "line 1: a dict has no 'a'"},
      {"{{ 'a' + none }}", "line 1: a string + none does not work"},
      {"{{ 'a' + x }}", "line 1: 'x' is undefined"},
      {"{{ 1 / 0 }}", "line 1: division by zero"},
      {"{{ 9223372036854775807 + 1 }}", "line 1: the result of + is too large"},
      {"{{ 1 < 'a' }}", "line 1: an integer and a string have no order"},
      {"{{ f() }}", "line 1: 'f' is undefined, so it cannot be called"},
      {"{{ [].append(1) }}", "line 1: a list.append would change it, so it cannot be called"},
      {"{{ strftime_now() }}", "line 1: strftime_now needs its argument format"},
      {"{{ 1|nope }}", "line 1: there is no filter 'nope'"},
      {"{{ 1 is nope }}", "line 1: there is no test 'nope'"},
      {"{{ 'a'|replace('a') }}", "line 1: replace needs its argument new"},
      {"{{ 'a'|upper(1) }}", "line 1: a filter of a string takes at most 0 arguments, not 1"},
      {"{{ x|tojson }}", "line 1: 'x' is undefined, so it has no JSON"},
      {"{% for x in 1 %}{% endfor %}", "line 1: an integer is not a list"},
      {"{% for a, b in [[1]] %}{% endfor %}", "line 1: 1 values for 2 names"},
      {"{% set x = 1 %}{% set x.y = 2 %}",
       "line 1: x.y cannot be set: x is an integer, not a namespace"},
      {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}",
       "line 1: macro f takes at most 1 arguments, not 2"},
      {"{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", "line 1: macro f has no argument b"},
      {"{% if yes %}\n{{ raise_exception('roles must alternate') }}\n{% endif %}",
       "line 2: the template refuses these messages: roles must alternate"},
  };
  for (const auto& [source, message] : cases) {
    EXPECT_EQ(error_of(source, {{"yes", true}}), message) << source;
  }
}

TEST(Jinja, AMacrosErrorIsReportedWhereItHappensAndItsCallersAfterIt) {
  const std::string macro = "{% macro f() %}\n{{ 1 }}\n{% endmacro %}\n";
  EXPECT_EQ(error_of(macro + "{{ 1 + f() }}"), "line 4: an integer + a string does not work");
  EXPECT_EQ(error_of("{% macro f() %}\n{{ none + 1 }}\n{% endmacro %}\n{{ f() }}"),
            "line 2: none + an integer does not work");
}

// Each would take hours, or more memory than there is; all are refused in moments.
TEST(Jinja, HostileTemplatesAreRefusedQuickly) {
  const std::string doubling =
      "{% set ns = namespace(x='ha') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}"
      "{% endfor %}";
  const std::string laughs =
      "{% set ns = namespace(x=['ha']) %}{% for i in range(90) %}{% set ns.x = [ns.x, ns.x] %}"
      "{% endfor %}";
  const std::string long_text = "{% set s = 'a' * 10 ** 7 %}";
  ordered_json many = ordered_json::object();
  for (int i = 0; i < 50; ++i) many[std::to_string(i)] = 1;
  const std::string sources[] = {
      doubling,
      laughs + "{{ ns.x }}",
      laughs + "{{ ns.x|tojson }}",
      laughs + "{% set a = ns.x %}" + laughs + "{{ ns.x == a }}",
      laughs + "{% set a = ns.x %}" + laughs + "{{ ns.x in [a] }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}",
      "{% set ns = namespace(x={}) %}{% for i in range(999) %}{% set ns.x = {'a': ns.x} %}"
      "{% endfor %}",
      "{% set ns = namespace(x=1) %}{% for i in range(999) %}{% set ns.x = {1: ns.x}.get %}"
      "{% endfor %}",
      "{% for i in range(10 ** 9) %}{% endfor %}",
      "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
      "{% set r = range(99999) %}{% for a in r %}{% for b in r if no %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}",
      "{{ 'a' * 10 ** 18 }}",
      "{{ [1] * 10 ** 18 }}",
      "{{ 'a'|indent(10 ** 17, true) }}",
      "{{ ('a' * 10 ** 6).replace('a', 'b' * 10 ** 6) }}",
      "{{ ('a' * 10 ** 6).replace('', 'b' * 10 ** 6) }}",
      "{{ ('b' * 10 ** 6).join(['a'] * 10 ** 6) }}",
      "{{ (['a'] * 10 ** 6)|join('b' * 10 ** 6) }}",
      "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
      "{% set t = 'a' * 10 ** 6 %}{% for i in range(99999) %}{% if t == t ~ 'b' %}{% endif %}"
      "{% endfor %}",
      "{{ ('a' * 10 ** 7).count('a' * 10 ** 6 + 'b') }}",
      "{{ ('a' * 10 ** 7).rfind('b' + 'a' * 10 ** 6) }}",
      "{{ ('a' * 10 ** 6 + 'b') in ('a' * 10 ** 7) }}",
      "{{ 3 ** 10 ** 17 }}",
      "{% for i in range(0 - 10 ** 18, 10 ** 18) %}{% endfor %}",
      "{{ range(10 ** 6)|list }}",
      "{{ range(99999)|map(attribute='a.' * 10 ** 6, default={})|list|length }}",
      long_text + "{{ s|trim('b' * 10 ** 7 ~ 'a') }}",
      long_text + "{{ s.strip('b' * 10 ** 7 ~ 'a') }}",
      long_text + "{{ s.endswith((s[1:],) * 10 ** 6) }}",
      long_text +
          "{% for i in range(99999) %}{% if s in many %}{% endif %}"
          "{% if many[s] or many.get(s) %}{% endif %}{% endfor %}",
      long_text +
          "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}"
          "{% set ns.l = ns.l + [{}[s]] %}{% endfor %}",
      long_text + "{% for i in range(99999) %}{% set x = {s: 1} %}{% endfor %}",
      long_text + "{% for i in range(99999) %}{% set x = dict(**{s: 1}) %}{% endfor %}",
      long_text + "{% for i in range(99999) %}{% if s is lower %}{% endif %}{% endfor %}",
      long_text + "{% for i in range(99999) %}{% set x = 'a'.removeprefix(s) %}{% endfor %}",
      long_text + "{% for i in range(99999) %}{% set x = {}|attr(s) %}{% endfor %}",
      long_text +
          "{% for i in range(99999) %}{% set x = []|tojson(separators=(s, s)) %}{% endfor %}",
      long_text + "{{ ([s] * 10 ** 6)|unique(true)|list|length }}",
      "{% set s = '1' * 10 ** 8 %}{% for i in range(99999) %}{% if s|float %}{% endif %}"
      "{% endfor %}",
      "{% set s = '\\r' * 10 ** 8 %}{{ s|indent(0)|length }}",
      "{% for i in range(99999) %}{% for j in range(99) %}{% set x = 1.5e308|round(20) %}"
      "{% endfor %}{% endfor %}",
  };
  for (const auto& source : sources) {
    const std::clock_t start = std::clock();  // of the processor: a busy machine is slow by itself
    const std::string error = error_of(source, {{"no", false}, {"many", many}});
    const double taken = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    EXPECT_TRUE(error.starts_with("line 1: ")) << source << " gave " << error.substr(0, 200);
    EXPECT_LT(taken, 10) << source;
    EXPECT_LT(error.size(), 1200) << source;
  }
}

TEST(Jinja, HostileSourcesAreRefusedWithoutDeepRecursion) {
  const auto repeated = [](const std::string& text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
  };
  for (const std::string& source :
       {"{{ " + repeated("(", 100000), "{{ " + repeated("[", 100000),
        "{{ " + repeated("{'a':", 100000), "{{ " + repeated("-", 100000) + "1 }}",
        "{{ " + repeated("not ", 100000) + "1 }}", "{{ x" + repeated(".a", 100000) + " }}",
        "{{ 1" + repeated("+1", 100000) + " }}", "{{ 1" + repeated("|abs", 100000) + " }}",
        "{{ 1" + repeated(" if 1 else 1", 100000) + " }}",
        "{{ 1" + repeated(" is number(1", 100000) + " }}", repeated("{% if 1 %}", 100000),
        repeated("{% for x in y %}", 100000), "{{ " + repeated("x", 100000) + " }}",
        "{% raw %}" + repeated("{% endraw x", 100000)}) {
    EXPECT_TRUE(error_of(source).starts_with("line 1: ")) << source.substr(0, 40);
  }
}

TEST(Jinja, AValueTooDeepForATemplateIsRefused) {
  for (const int levels : {101, 1'000'000}) {  // the last is deeper than recursion can stand
    ordered_json variables = {{"x", 1}};
    for (int i = 0; i < levels; ++i) {
      ordered_json outer = ordered_json::array();
      outer.push_back(std::move(variables["x"]));
      variables["x"] = std::move(outer);
    }
    EXPECT_EQ(error_of("{{ x }}", variables), "a value nests deeper than 100");
  }
}

TEST(Jinja, InvalidUtf8ComesOutReplaced) {
  EXPECT_EQ(render("a\xFF{{ x }}{{ x|length }}", {{"x", "\xC3"}}),
            "a\xEF\xBF\xBD\xEF\xBF\xBD"
            "1");
}

}  // namespace
}  // namespace metala
