%% @doc The last part of the story: three gateways, one of which is killed while calls go on.
-module(gater_cluster_demo).

-include_lib("stdlib/include/assert.hrl").

-export([story/2]).

%% @doc Starts three gateways and a node that uses one of them; the functions print.
-spec story(gater_harness:world(), #{atom() => fun()}) -> ok.
story(World, #{chapter := Chapter, say := Say}) ->
    Chapter("Three gateways keep one registry; one is killed while calls go on"),
    Names = [gater_harness:unique("gater" ++ integer_to_list(N)) ++ "@127.0.0.1"
             || N <- [1, 2, 3]],
    Gateways = [gater_harness:gateway(World, #{
        name => Name, args => ["--cluster", lists:flatten(lists:join(",", Names))]})
        || Name <- Names],
    [Say("ready node=~s port=~b", [Node, Port]) || #{node := Node, port := Port} <- Gateways],
    Ebin = filename:dirname(code:which(esdb_gater_api)),
    Emma = gater_harness:node(World, #{name => gater_harness:unique("emma"), modules => [?MODULE],
                                       args => ["-pa", Ebin]}),
    Nodes = [Node || #{node := Node} <- Gateways],
    {ok, _} = gater_harness:on(Emma, fun() ->
        ok = application:load(erl_esdb_gater),
        ok = application:set_env(erl_esdb_gater, gateways, Nodes),
        ok = application:set_env(erl_esdb_gater, security, [{hmac_secret, <<"a secret for the demo">>}]),
        application:ensure_all_started(erl_esdb_gater)
    end),
    %% Registrations are taken as soon as the three have found each other.
    First = worker(Emma),
    gater_harness:until(fun() -> registered(Emma, First) =:= ok end),
    Caller = gater_harness:on(Emma, fun() -> spawn(fun() -> calls(0, []) end) end),
    {ok, Used} = gateway(Emma),
    [Victim] = [Gateway || Gateway = #{node := Node} <- Gateways, Node =:= Used],
    Say("emma registers a worker, calls it without a pause, and uses ~s", [Used]),
    Killed = erlang:monotonic_time(millisecond),
    gater_harness:signal(Victim, "KILL"),
    gater_harness:until(fun() ->
        case gateway(Emma) of {ok, Other} -> Other =/= Used; _ -> false end end),
    {ok, Next} = gateway(Emma),
    Say("kill -KILL ~s; ~b ms later emma uses ~s",
        [Used, erlang:monotonic_time(millisecond) - Killed, Next]),
    Second = worker(Emma),
    gater_harness:until(fun() -> registered(Emma, Second) =:= ok end),
    Say("a second worker is registered ~b ms after the kill, by the two that are left",
        [erlang:monotonic_time(millisecond) - Killed]),
    {Count, Failures} = gater_harness:on(Emma, fun() ->
        Caller ! {stop, self()},
        receive {Caller, Calls, Failed} -> {Calls, Failed} end
    end),
    ?assertEqual([], Failures),
    ?assert(Count > 0),
    Say("of ~b calls in all that time none failed", [Count]).

gateway(Beam) -> gater_harness:on(Beam, fun esdb_gater_link:gateway/0).

registered(Beam, Pid) ->
    gater_harness:on(Beam, fun() -> esdb_gater_api:register_worker(shipping, Pid) end).

worker(Beam) ->
    gater_harness:on(Beam, fun() ->
        spawn(fun Loop() ->
            receive {'$gen_call', From, {ship, N}} -> gen_server:reply(From, {ok, N}), Loop() end
        end)
    end).

calls(Count, Failures) ->
    receive
        {stop, From} -> From ! {self(), Count, Failures}
    after 0 ->
        case esdb_gater_api:execute(shipping, fun(W) -> gen_server:call(W, {ship, Count}) end) of
            {ok, Count} -> calls(Count + 1, Failures);
            Other -> calls(Count + 1, [Other | Failures])
        end
    end.
