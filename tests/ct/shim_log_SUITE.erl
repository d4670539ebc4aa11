%% @doc What the application logs can be seen where Erlang shows its log: on the console of a real
%% `erl' with OTP's default logger.
-module(shim_log_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2]).
-export([misconfiguration_is_shown/1, a_lost_gateway_is_shown_once/1,
         the_lines_of_the_application_can_be_silenced/1, a_bad_value_is_shown_with_its_key/1]).

suite() -> [{timetrap, {minutes, 3}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases = [misconfiguration_is_shown, a_lost_gateway_is_shown_once,
             the_lines_of_the_application_can_be_silenced, a_bad_value_is_shown_with_its_key],
    [{Release, Cases} || Release <- [otp25, otp27, otp29]].

init_per_suite(Config) -> Config.

end_per_suite(_Config) -> ok.

init_per_group(Group, Config) ->
    case gater_harness:on_release(Group, Config) of
        {skip, _} = Skip ->
            Skip;
        Chosen ->
            [{world, gater_harness:new()} | Chosen]
    end.

end_per_group(_Group, Config) ->
    gater_harness:stop(value(world, Config)).

misconfiguration_is_shown(Config) ->
    Console = console(Config, [], [{gatewys, []}, {program, "/nowhere/esdb-gater"}]),
    gater_console:await(Console, ["unknown configuration key gatewys; did you mean gateways?",
                                  "no secret is configured",
                                  "esdb-gater is not at \"/nowhere/esdb-gater\""]),
    gater_console:stop(Console).

a_lost_gateway_is_shown_once(Config) ->
    World = value(world, Config),
    #{node := Node} = Gateway = gater_harness:gateway(World),
    Console = console(Config, ["-name", gater_harness:unique("log") ++ "@127.0.0.1",
                               "-setcookie", gater_harness:cookie(World)],
                      [{gateways, [Node]}, {telemetry_handlers, [logger]}],
                      "ok = esdb_gater_api:register_worker(shown, self()), "),
    gater_console:await(Console, ["esdb_gater.worker.registered"]),
    gater_harness:signal(Gateway, "KILL"),
    gater_console:await(Console, [["gateway ", atom_to_list(Node), " is lost"],
                                  "no connection to the gateway"]),
    %% It goes on trying, every few hundred milliseconds at first, and says no more.
    _ = gater_harness:await_exit(World, Gateway),
    Tries = fun() -> gater_console:write(Console, "tries\n"), ok end,
    ok = Tries(),
    gater_console:await(Console, ["five more attempts have failed"]),
    ?assertEqual(1, gater_console:count(Console, "no connection to the gateway")),
    ?assertEqual(1, gater_console:count(Console, "is lost")),
    _ = gater_harness:restart(World, Gateway),
    gater_console:await(Console, ["attached to gateway"]),
    gater_console:stop(Console).

the_lines_of_the_application_can_be_silenced(Config) ->
    Console = console(Config, [], [{gatewys, []}, {program, "/nowhere/esdb-gater"}],
                      "logger:notice(\"others are shown\"), ",
                      "ok = logger:set_application_level(erl_esdb_gater, none), "),
    gater_console:await(Console, ["others are shown"]),
    ?assertEqual(0, gater_console:count(Console, "erl_esdb_gater:")),
    gater_console:stop(Console).

a_bad_value_is_shown_with_its_key(Config) ->
    Console = console(Config, [], [{channels, [{mine, [{max_rate, 0}]}]}]),
    gater_console:await(Console, ["configuration key channels.mine.max_rate is 0, but must be"]),
    gater_console:stop(Console).

%%% Helpers

console(Config, Arguments, Env) -> console(Config, Arguments, Env, "").

console(Config, Arguments, Env, Then) -> console(Config, Arguments, Env, Then, "").

%% Runs the application with `Env' and evaluates `Then'. A line on the standard input reports
%% when the link has tried five times more.
console(Config, Arguments, Env, Then, Before) ->
    Set = [io_lib:format("application:set_env(erl_esdb_gater, ~0tp, ~0tp), ", [Key, Value])
           || {Key, Value} <- Env],
    Expression = ["application:load(erl_esdb_gater), ", Set, Before,
                  "case application:ensure_all_started(erl_esdb_gater) of {ok, _} -> ok; _ -> ok end, ",
                  Then, "io:get_line(\"\"), ", watch_attempts(),
                  "timer:sleep(infinity)."],
    gater_console:start(value(otp, Config), Arguments, lists:flatten(Expression)).

%% Every attempt to connect is a process of its own, begun by net_kernel:connect_node/1.
watch_attempts() ->
    "1 = erlang:trace_pattern({net_kernel, connect_node, 1}, true, [global]), "
    "_ = erlang:trace(all, true, [call]), "
    "[receive {trace, _, call, _} -> ok end || _ <- lists:seq(1, 5)], "
    "erlang:trace(all, false, [call]), "
    "io:put_chars(\"five more attempts have failed\\n\"), ".

value(Key, Config) ->
    {Key, Value} = lists:keyfind(Key, 1, Config),
    Value.
