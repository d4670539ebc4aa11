%% @doc What goes on while there is no gateway: stores start and stop, and nobody who logs waits.
-module(shim_without_gateway_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2, init_per_testcase/2, end_per_testcase/2]).
-export([a_store_boots_without_a_gateway_and_is_registered_when_one_comes/1,
         an_eventual_registration_is_seen_at_once_and_ends_with_its_worker/1,
         a_dead_worker_is_refused_also_eventually/1,
         a_worker_is_unregistered_without_a_gateway/1,
         a_withdrawal_that_was_under_way_is_carried_out/1,
         a_worker_that_is_registered_again_stays/1,
         a_telemetry_handler_may_register_a_worker/1,
         a_slow_telemetry_handler_does_not_stop_the_link/1,
         a_logger_handler_that_publishes_keeps_nobody_waiting/1]).

%% @private A handler of logger.
-export([log/2]).

-define(AT_ONCE_MS, 2000).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases = [a_store_boots_without_a_gateway_and_is_registered_when_one_comes,
             an_eventual_registration_is_seen_at_once_and_ends_with_its_worker,
             a_dead_worker_is_refused_also_eventually,
             a_worker_is_unregistered_without_a_gateway,
             a_withdrawal_that_was_under_way_is_carried_out,
             a_worker_that_is_registered_again_stays,
             a_telemetry_handler_may_register_a_worker,
             a_slow_telemetry_handler_does_not_stop_the_link,
             a_logger_handler_that_publishes_keeps_nobody_waiting],
    [{Release, Cases} || Release <- [otp25, otp27, otp29]].

init_per_suite(Config) -> [{world, gater_harness:new()} | Config].

end_per_suite(Config) -> gater_harness:stop(value(world, Config)).

init_per_group(Group, Config) ->
    gater_harness:on_release(Group, Config).

end_per_group(_Group, _Config) -> ok.

init_per_testcase(_Case, Config) ->
    World = value(world, Config),
    Beam = gater_shim:node(World, [?MODULE], #{otp => value(otp, Config)}),
    Plain = gater_harness:node(World, #{modules => [?MODULE]}),
    [{beam, Beam}, {plain, Plain} | Config].

end_per_testcase(_Case, Config) ->
    [gater_harness:kill_node(value(world, Config), value(Node, Config)) || Node <- [beam, plain]].

%%% Registrations

a_store_boots_without_a_gateway_and_is_registered_when_one_comes(Config) ->
    Beam = value(beam, Config),
    Name = gater_harness:unique("late") ++ "@127.0.0.1",
    ok = gater_shim:start(Beam, [{gateways, [list_to_atom(Name)]}, {registration, eventual}]),
    Worker = on(Beam, fun() ->
        %% As a store's worker does it.
        Self = self(),
        Pid = spawn(fun() ->
                        ok = esdb_gater_api:register_worker(boots),
                        Self ! {up, self()},
                        gater_shim:echo()
                    end),
        receive {up, Pid} -> Pid after ?AT_ONCE_MS -> error(did_not_boot) end,
        [Pid] = esdb_gater_api:get_local_workers(boots),
        {ok, {Pid, hello}} = esdb_gater_api:execute(boots, fun(W) ->
                                 gen_server:call(W, {echo, hello})
                             end),
        Pid
    end),
    Gateway = gater_harness:gateway(value(world, Config), #{name => Name}),
    until(fun() -> at_gateway(Config, Gateway, boots) =:= [{node(Worker), Worker}] end),
    ?assertEqual({ok, [{node(Worker), Worker}]},
                 on(Beam, fun() -> esdb_gater_api:get_workers(boots) end)),
    gater_harness:signal(Gateway, "KILL").

an_eventual_registration_is_seen_at_once_and_ends_with_its_worker(Config) ->
    {Beam, Gateway} = linked(Config, [{registration, eventual}]),
    [Pid] = on(Beam, fun() ->
        Worker = spawn(fun gater_shim:echo/0),
        ok = esdb_gater_api:register_worker(mortal, Worker),
        {ok, [{_, Worker}]} = esdb_gater_api:get_workers(mortal),
        [Worker]
    end),
    until(fun() -> at_gateway(Config, Gateway, mortal) =:= [{node(Pid), Pid}] end),
    on(Beam, fun() -> exit(Pid, kill) end),
    until(fun() -> at_gateway(Config, Gateway, mortal) =:= [] end),
    until(fun() -> on(Beam, fun() -> esdb_gater_api:get_workers(mortal) end) =:= {ok, []} end).

a_dead_worker_is_refused_also_eventually(Config) ->
    Beam = value(beam, Config),
    ok = gater_shim:start(Beam, [{gateways, ['nobody@127.0.0.1']}, {registration, eventual}]),
    on(Beam, fun() ->
        {Dead, Monitor} = spawn_monitor(fun() -> ok end),
        receive {'DOWN', Monitor, _, _, _} -> ok end,
        {error, noproc} = esdb_gater_api:register_worker(dead, Dead),
        {error, badarg} = esdb_gater_api:register_worker(dead, not_a_pid)
    end).

a_worker_is_unregistered_without_a_gateway(Config) ->
    {Beam, Gateway} = linked(Config, []),
    [Gone, Stays] = gater_shim:workers(Beam, stopping, 2),
    kill_gateway(Config, Gateway),
    on(Beam, fun() ->
        {Micros, ok} = timer:tc(fun() -> esdb_gater_api:unregister_worker(stopping, Gone) end),
        true = Micros < 1000 * ?AT_ONCE_MS,
        [Stays] = esdb_gater_api:get_local_workers(stopping)
    end),
    %% Its data say that both are registered.
    Again = gater_harness:restart(value(world, Config), Gateway),
    until(fun() -> at_gateway(Config, Again, stopping) =:= [{node(Stays), Stays}] end),
    until(fun() -> on(Beam, fun() -> esdb_gater_link:gateway() =/= none end) end),
    ?assertEqual([Stays], on(Beam, fun() -> esdb_gater_api:get_local_workers(stopping) end)),
    ?assertEqual([], on(Beam, fun() -> ets:tab2list(esdb_gater_withdrawals) end)),
    ?assertEqual([{node(Stays), Stays}], at_gateway(Config, Again, stopping)).

a_withdrawal_that_was_under_way_is_carried_out(Config) ->
    {Beam, Gateway} = linked(Config, [{gateway_timeout_ms, 500}]),
    [Pid] = gater_shim:workers(Beam, under_way, 1),
    gater_harness:signal(Gateway, "STOP"),
    ok = on(Beam, fun() -> esdb_gater_api:unregister_worker(under_way, Pid) end),
    [] = on(Beam, fun() -> esdb_gater_api:get_local_workers(under_way) end),
    kill_gateway(Config, Gateway),
    Again = gater_harness:restart(value(world, Config), Gateway),
    until(fun() -> on(Beam, fun() -> esdb_gater_link:gateway() =/= none
                                         andalso ets:tab2list(esdb_gater_withdrawals) =:= [] end) end),
    until(fun() -> at_gateway(Config, Again, under_way) =:= [] end).

a_worker_that_is_registered_again_stays(Config) ->
    {Beam, Gateway} = linked(Config, [{registration, eventual}]),
    [Pid] = gater_shim:workers(Beam, again, 1),
    until(fun() -> at_gateway(Config, Gateway, again) =:= [{node(Pid), Pid}] end),
    kill_gateway(Config, Gateway),
    on(Beam, fun() ->
        ok = esdb_gater_api:unregister_worker(again, Pid),
        ok = esdb_gater_api:register_worker(again, Pid),
        [Pid] = esdb_gater_api:get_local_workers(again)
    end),
    Again = gater_harness:restart(value(world, Config), Gateway),
    until(fun() -> on(Beam, fun() -> esdb_gater_link:gateway() =/= none end) end),
    ?assertEqual({ok, [{node(Pid), Pid}]}, on(Beam, fun() -> esdb_gater_api:get_workers(again) end)),
    until(fun() -> at_gateway(Config, Again, again) =:= [{node(Pid), Pid}] end).

%%% Handlers

a_telemetry_handler_may_register_a_worker(Config) ->
    {Beam, Gateway} = linked(Config, []),
    on(Beam, fun() ->
        Self = self(),
        ok = esdb_gater_telemetry:attach(registers,
            fun([esdb_gater, worker, registered], _, #{store_id := first, pid := Pid}, _) ->
                    Self ! {registered, esdb_gater_api:register_worker(second, Pid)};
               (_, _, _, _) ->
                    ok
            end, none),
        ok = esdb_gater_api:register_worker(first, Self),
        receive {registered, Answer} -> ok = Answer end,
        {ok, [{_, Self}]} = esdb_gater_api:get_workers(second)
    end),
    kill_gateway(Config, Gateway).

a_slow_telemetry_handler_does_not_stop_the_link(Config) ->
    {Beam, Gateway} = linked(Config, []),
    on(Beam, fun() ->
        Self = self(),
        ok = esdb_gater_telemetry:attach(slow,
            fun([esdb_gater, worker, registered], _, _, _) ->
                    Self ! {in, self()},
                    receive go_on -> ok end;
               (_, _, _, _) ->
                    ok
            end, none),
        ok = esdb_gater_api:register_worker(slow, Self),
        Handler = receive {in, Pid} -> Pid end,
        {ok, [{_, Self}]} = esdb_gater_api:get_workers(slow),
        ok = esdb_gater_api:unregister_worker(slow, Self),
        Handler ! go_on
    end),
    kill_gateway(Config, Gateway).

a_logger_handler_that_publishes_keeps_nobody_waiting(Config) ->
    Beam = value(beam, Config),
    ok = gater_shim:start(Beam, [{gateways, ['nobody@127.0.0.1']}]),
    on(Beam, fun() ->
        ok = logger:add_handler(publishes, ?MODULE, #{config => self()}),
        {Micros, _} = timer:tc(fun() -> [logger:error("line ~b", [N]) || N <- lists:seq(1, 10)] end),
        ok = logger:remove_handler(publishes),
        [receive {published, Answer} -> {error, no_gateway} = Answer end || _ <- lists:seq(1, 10)],
        true = Micros < 1000 * ?AT_ONCE_MS,
        %% Others wait, as they did.
        {Waited, {error, no_gateway}} = timer:tc(fun() -> esdb_gater_link:await_gateway(300) end),
        true = Waited >= 300000
    end).

%% Some calls deep, as handlers are.
log(#{msg := Message}, #{config := Pid}) ->
    Publish = fun() -> [begin
                            Answer = esdb_channel_server:publish(esdb_channel_logging, <<"lines">>, M),
                            Pid ! {published, Answer}
                        end || M <- [Message]]
              end,
    [ok = element(1, {ok, Publish()})].

%%% Helpers

linked(Config, Env) ->
    Gateway = gater_harness:gateway(value(world, Config)),
    Beam = value(beam, Config),
    ok = gater_shim:start(Beam, gater_shim:named([Gateway]) ++ Env),
    {Beam, Gateway}.

kill_gateway(Config, Gateway) ->
    gater_harness:signal(Gateway, "KILL"),
    _ = gater_harness:await_exit(value(world, Config), Gateway),
    until(fun() -> on(value(beam, Config), fun() -> esdb_gater_link:gateway() end) =:= none end).

at_gateway(Config, Gateway, Store) ->
    {ok, Workers} = gater_harness:call(value(plain, Config), {esdb_gater_worker_registry, Gateway},
                                       {get_workers, Store}),
    Workers.

on(Beam, Fun) -> gater_harness:on(Beam, Fun).
until(Condition) -> gater_harness:until(Condition).

value(Key, Config) ->
    {Key, Value} = lists:keyfind(Key, 1, Config),
    Value.
