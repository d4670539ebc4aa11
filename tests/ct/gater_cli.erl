%% @doc The command line of the program, as an operator types it.
-module(gater_cli).

-export([run/2, run/3, json/2, json/3, text/2]).

-define(WITHIN_MS, 120000).

%% Turns JSON into a term that `file:consult/1' reads.
-define(TO_TERM, "
import json, sys
def term(value):
    if value is True: return 'true'
    if value is False: return 'false'
    if value is None: return 'null'
    if isinstance(value, (int, float)): return repr(value)
    if isinstance(value, str):
        return '<<' + ','.join(str(byte) for byte in value.encode()) + '>>'
    if isinstance(value, list): return '[' + ','.join(map(term, value)) + ']'
    return '#{' + ','.join(term(key) + '=>' + term(item) for key, item in value.items()) + '}'
print(term(json.load(open(sys.argv[1]))) + '.')
").

%% @doc Runs the program with these arguments and the cookie of a world: its exit code, what it
%% prints, and what it complains of.
-spec run(gater_harness:world(), [string()]) -> {integer(), binary(), binary()}.
run(World, Arguments) -> run(World, Arguments, []).

%% @doc As `run/2' with further variables of the environment. The cookie is left out if there is a
%% variable for it.
-spec run(gater_harness:world(), [string()], [{string(), string() | false}]) ->
    {integer(), binary(), binary()}.
run(World, Arguments, Variables) ->
    Dir = gater_harness:dir(World),
    Complaints = filename:join(Dir, gater_harness:unique("complaints")),
    Cookie = [{"ESDB_GATER_COOKIE_FILE", filename:join(Dir, "cookie")}
              || not lists:keymember("ESDB_GATER_COOKIE_FILE", 1, Variables)],
    Port = open_port({spawn_executable, "/bin/sh"},
                     [{args, ["-c", "complaints=$1; shift; exec \"$@\" 2>\"$complaints\" </dev/null", "sh",
                              Complaints, gater_harness:program() | Arguments]},
                      {env, Cookie ++ Variables}, binary, exit_status]),
    {Code, Printed} = printed(Port, <<>>),
    {ok, Complained} = file:read_file(Complaints),
    {Code, Printed, Complained}.

%% @doc Runs the program with `--json': its exit code and its answer.
-spec json(gater_harness:world(), [string()]) -> {integer(), term()}.
json(World, Arguments) -> json(World, Arguments, []).

%% @doc As `json/2' with further variables.
-spec json(gater_harness:world(), [string()], [{string(), string() | false}]) ->
    {integer(), term()}.
json(World, Arguments, Variables) ->
    case run(World, Arguments ++ ["--json"], Variables) of
        {Code, <<>>, Complained} -> error({no_answer, Code, Complained});
        {Code, Printed, _} -> {Code, decode(World, Printed)}
    end.

%% @doc What the program prints; it has to succeed.
-spec text(gater_harness:world(), [string()]) -> binary().
text(World, Arguments) ->
    case run(World, Arguments) of
        {0, Printed, _} -> Printed;
        Other -> error({failed, Arguments, Other})
    end.

decode(World, Text) ->
    File = filename:join(gater_harness:dir(World), gater_harness:unique("answer")),
    ok = file:write_file(File, Text),
    Port = open_port({spawn_executable, os:find_executable("python3")},
                     [{args, ["-c", ?TO_TERM, File]}, binary, exit_status, stderr_to_stdout]),
    {_, Term} = printed(Port, <<>>),
    ok = file:write_file(File, Term),
    case file:consult(File) of
        {ok, [Value]} -> Value;
        Other -> error({no_json, Other, Text})
    end.

printed(Port, Text) ->
    receive
        {Port, {data, More}} -> printed(Port, <<Text/binary, More/binary>>);
        {Port, {exit_status, Code}} -> {Code, Text}
    after ?WITHIN_MS -> error({never_ended, Text})
    end.
