%% @doc A BEAM without a name: it keeps its namelessness, and everything works over pipes.
-module(shim_nameless_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2, init_per_testcase/2, end_per_testcase/2]).
-export([workers_are_registered_called_and_removed/1,
         messages_reach_subscribers_in_order/1, channels_keep_their_rules/1,
         a_changed_secret_counts_at_once/1, events_of_the_gateway_are_told/1,
         long_messages_pass_the_pipes/1, what_is_unknown_to_the_gateway_is_refused/1,
         it_has_no_name_and_is_no_node/1, a_killed_program_is_replaced/1,
         a_silent_program_is_replaced/1, a_crash_of_its_processes_loses_nothing/1,
         mnesia_finds_its_data_at_the_next_start/1, it_needs_no_network_and_no_epmd/1,
         a_name_that_comes_and_goes_is_followed/1, a_data_directory_is_left_alone/1]).

-define(EVENTS, esdb_channel_events).
-define(HEALTH, esdb_channel_health).
-define(ALERTS, esdb_channel_alerts).
-define(PIPED, 'esdb_gater@nohost').

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [{group, otp25}, {group, otp27}, {group, otp29}, {group, own}].

groups() ->
    Everything = [workers_are_registered_called_and_removed, messages_reach_subscribers_in_order,
                  channels_keep_their_rules, a_changed_secret_counts_at_once,
                  events_of_the_gateway_are_told, long_messages_pass_the_pipes,
                  what_is_unknown_to_the_gateway_is_refused, it_has_no_name_and_is_no_node,
                  a_killed_program_is_replaced, a_silent_program_is_replaced,
                  a_crash_of_its_processes_loses_nothing],
    [{otp25, [], Everything}, {otp27, [], Everything}, {otp29, [], Everything},
     {own, [], [mnesia_finds_its_data_at_the_next_start, it_needs_no_network_and_no_epmd,
                a_name_that_comes_and_goes_is_followed, a_data_directory_is_left_alone]}].

init_per_suite(Config) ->
    [{world, gater_harness:new()} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

init_per_group(own, Config) ->
    Config;
init_per_group(Release, Config) ->
    case gater_harness:on_release(Release, Config) of
        {skip, _} = Skip ->
            Skip;
        OnRelease ->
            Options = #{name => none, otp => value(otp, OnRelease)},
            Beam = gater_shim:node(value(world, Config), [?MODULE], Options),
            ok = gater_shim:start(Beam, gater_shim:embedded(Beam)),
            [{beam, Beam} | OnRelease]
    end.

end_per_group(own, _Config) ->
    ok;
end_per_group(_Release, Config) ->
    gater_harness:kill_node(value(world, Config), value(beam, Config)).

init_per_testcase(_Case, Config) -> Config.

end_per_testcase(_Case, _Config) -> ok.

%%% Everything works

workers_are_registered_called_and_removed(Config) ->
    on(Config, fun() ->
        [A, B] = Workers = [spawn(fun gater_shim:echo/0) || _ <- [1, 2]],
        [ok = esdb_gater_api:register_worker(pairs, Worker) || Worker <- Workers],
        {ok, [{nonode@nohost, A}, {nonode@nohost, B}]} = esdb_gater_api:get_workers(pairs),
        Called = [begin
                      {ok, {Worker, N}} =
                          esdb_gater_api:execute(pairs, fun(W) -> gen_server:call(W, {echo, N}) end),
                      Worker
                  end || N <- [1, 2]],
        ?assertEqual(lists:sort(Workers), lists:sort(Called)),
        exit(A, kill),
        gater_harness:until(fun() -> esdb_gater_api:get_workers(pairs) =:= {ok, [{node(), B}]} end),
        ok = esdb_gater_api:unregister_worker(pairs, B),
        {ok, []} = esdb_gater_api:get_workers(pairs),
        {error, noproc} = esdb_gater_api:register_worker(pairs, A),
        %% The registry is called under its name here as on a gateway.
        ok = gen_server:call(esdb_gater_worker_registry, {register, raw, B}),
        {ok, [{_, B}]} = gen_server:call(esdb_gater_worker_registry, {get_workers, raw})
    end).

messages_reach_subscribers_in_order(Config) ->
    on(Config, fun() ->
        [One, Two] = Subscribers = [gater_agent:start() || _ <- [1, 2]],
        [ok = esdb_channel_server:subscribe(?EVENTS, <<"order">>, S) || S <- Subscribers],
        ?assertEqual(lists:sort(Subscribers),
                     lists:sort(esdb_channel_server:get_subscribers(?EVENTS, <<"order">>))),
        [ok = esdb_channel_server:publish(?EVENTS, <<"order">>, N) || N <- lists:seq(1, 100)],
        Expected = [{channel_message, ?EVENTS, <<"order">>, N} || N <- lists:seq(1, 100)],
        [gater_harness:until(fun() -> gater_agent:messages(S) =:= Expected end) || S <- Subscribers],
        ok = esdb_channel_server:unsubscribe(?EVENTS, <<"order">>, One),
        gater_harness:until(fun() ->
            esdb_channel_server:get_subscribers(?EVENTS, <<"order">>) =:= [Two]
        end),
        exit(Two, kill),
        gater_harness:until(fun() ->
            esdb_channel_server:get_subscribers(?EVENTS, <<"order">>) =:= []
        end)
    end).

channels_keep_their_rules(Config) ->
    on(Config, fun() ->
        %% The last message of a topic comes to who subscribes later.
        ok = esdb_channel_server:publish(?HEALTH, <<"h">>, #{status => fine}),
        Late = gater_agent:start(),
        ok = esdb_channel_server:subscribe(?HEALTH, <<"h">>, Late),
        gater_harness:until(fun() ->
            gater_agent:messages(Late) =:= [{channel_message, ?HEALTH, <<"h">>, #{status => fine}}]
        end),
        {error, signature_required} = esdb_channel_server:publish(?ALERTS, <<"a">>, #{level => high}),
        Reader = gater_agent:start(),
        ok = esdb_channel_server:subscribe(?ALERTS, <<"a">>, Reader),
        Signed = esdb_pubsub_security:sign(#{level => high, by => self()}),
        ok = esdb_channel_server:publish(?ALERTS, <<"a">>, Signed),
        gater_harness:until(fun() ->
            gater_agent:messages(Reader) =:= [{channel_message, ?ALERTS, <<"a">>, Signed}]
        end),
        {error, invalid_signature} =
            esdb_channel_server:publish(?ALERTS, <<"a">>, Signed#{level => low}),
        Rates = [esdb_channel_server:publish(esdb_channel_diagnostics, <<"d">>, N)
                 || N <- lists:seq(1, 500)],
        true = lists:member({error, rate_limited}, Rates)
    end).

a_changed_secret_counts_at_once(Config) ->
    on(Config, fun() ->
        ok = esdb_pubsub_security:set_secret(<<"another", 0, 255, "secret">>),
        Signed = esdb_pubsub_security:sign(#{level => high}),
        ok = esdb_channel_server:publish(?ALERTS, <<"changed">>, Signed)
    end).

events_of_the_gateway_are_told(Config) ->
    on(Config, fun() ->
        Self = self(),
        Handler = fun(Event, _, Metadata, _) -> Self ! {event, Event, Metadata} end,
        Name = [esdb_gater, worker, registered],
        ok = esdb_gater_telemetry:attach(nameless, Handler, #{}),
        Worker = spawn(fun gater_shim:echo/0),
        ok = esdb_gater_api:register_worker(told, Worker),
        receive {event, Name, #{store_id := told, pid := Worker, node := nonode@nohost}} -> ok
        after 20000 -> error(no_event)
        end,
        ok = esdb_gater_telemetry:detach(nameless)
    end).

long_messages_pass_the_pipes(Config) ->
    on(Config, fun() ->
        Reader = gater_agent:start(),
        ok = esdb_channel_server:subscribe(?EVENTS, <<"long">>, Reader),
        Long = [binary:copy(<<N>>, 1 bsl 20) || N <- lists:seq(1, 12)],
        [ok = esdb_channel_server:publish(?EVENTS, <<"long">>, B) || B <- Long ++ [Long]],
        Expected = [{channel_message, ?EVENTS, <<"long">>, B} || B <- Long ++ [Long]],
        gater_harness:until(fun() -> gater_agent:messages(Reader) =:= Expected end)
    end).

what_is_unknown_to_the_gateway_is_refused(Config) ->
    on(Config, fun() ->
        {error, unknown_channel} = esdb_channel_server:publish(no_such_channel, <<"t">>, 1),
        Service = esdb_gater_transport:address(no_such_name, ?PIPED),
        {noproc, _} = try gen_server:call(Service, hello) catch exit:Reason -> Reason end
    end).

it_has_no_name_and_is_no_node(Config) ->
    on(Config, fun() ->
        nonode@nohost = node(),
        false = is_alive(),
        undefined = whereis(net_kernel),
        [] = nodes(hidden),
        {ok, ?PIPED} = esdb_gater_link:gateway()
    end).

%%% What goes wrong

a_killed_program_is_replaced(Config) ->
    still_there_after(Config, fun(Program) -> kill(Program, "KILL") end).

a_silent_program_is_replaced(Config) ->
    still_there_after(Config, fun(Program) -> kill(Program, "STOP") end).

a_crash_of_its_processes_loses_nothing(Config) ->
    [still_there_after(Config, fun(_) -> exit(whereis(Name), kill) end)
     || Name <- [esdb_gater_pipe, esdb_gater_port, esdb_gater_worker_registry, ?EVENTS]].

%% A worker and a subscriber outlive what is done.
still_there_after(Config, Do) ->
    on(Config, fun() ->
        Worker = spawn(fun gater_shim:echo/0),
        ok = esdb_gater_api:register_worker(lasting, Worker),
        Reader = gater_agent:start(),
        Topic = term_to_binary(make_ref()),
        ok = esdb_channel_server:subscribe(?EVENTS, Topic, Reader),
        {ok, Program} = esdb_gater_port:os_pid(),
        Do(Program),
        gater_harness:until(fun() ->
            _ = esdb_channel_server:publish(?EVENTS, Topic, again),
            gater_agent:messages(Reader) =/= []
        end),
        gater_harness:until(fun() ->
            esdb_gater_api:get_workers(lasting) =:= {ok, [{node(), Worker}]}
        end),
        {ok, {Worker, 1}} =
            esdb_gater_api:execute(lasting, fun(W) -> gen_server:call(W, {echo, 1}) end),
        ok = esdb_gater_api:unregister_worker(lasting, Worker)
    end).

kill(Program, Signal) -> os:cmd("kill -" ++ Signal ++ " " ++ integer_to_list(Program)).

%%% By itself

mnesia_finds_its_data_at_the_next_start(Config) ->
    Dir = filename:join(gater_harness:dir(value(world, Config)), "mnesia"),
    First = nameless(Config),
    ok = gater_harness:on(First, fun() ->
        ok = application:load(mnesia),
        ok = application:set_env(mnesia, dir, Dir),
        ok = mnesia:create_schema([node()]),
        ok = mnesia:start(),
        {atomic, ok} = mnesia:create_table(t, [{disc_copies, [node()]}]),
        ok
    end),
    ok = gater_shim:start(First, gater_shim:embedded()),
    ok = gater_harness:on(First, fun() ->
        ok = esdb_gater_api:register_worker(m, spawn(fun gater_shim:echo/0)),
        {atomic, ok} = mnesia:transaction(fun() -> mnesia:write({t, key, value}) end),
        ok = application:stop(erl_esdb_gater),
        stopped = mnesia:stop(),
        ok
    end),
    gater_harness:kill_node(value(world, Config), First),
    Second = nameless(Config),
    ok = gater_shim:start(Second, gater_shim:embedded()),
    ok = gater_harness:on(Second, fun() ->
        ok = application:load(mnesia),
        ok = application:set_env(mnesia, dir, Dir),
        ok = mnesia:start(),
        ok = mnesia:wait_for_tables([t], 5000),
        [{t, key, value}] = mnesia:dirty_read(t, key),
        ok
    end).

it_needs_no_network_and_no_epmd(Config) ->
    %% Not even the loopback interface is up.
    Via = [os:find_executable("unshare"), "--net"],
    Beam = nameless(Config, #{via => Via}),
    ok = gater_shim:start(Beam, gater_shim:embedded()),
    works(Beam).

a_name_that_comes_and_goes_is_followed(Config) ->
    Beam = nameless(Config),
    ok = gater_shim:start(Beam, gater_shim:embedded()),
    %% With the name of the node its pids change for others: they are kept there.
    gater_harness:on(Beam, fun() ->
        {ok, ?PIPED} = esdb_gater_link:await_gateway(5000),
        true = register(worker, spawn(fun gater_shim:echo/0)),
        ok = esdb_gater_api:register_worker(moving, whereis(worker)),
        true = register(reader, gater_agent:start()),
        ok = esdb_channel_server:subscribe(?EVENTS, <<"moving">>, whereis(reader))
    end),
    _ = os:cmd("epmd -daemon"),
    Name = list_to_atom(gater_harness:unique("moving") ++ "@127.0.0.1"),
    Cookie = list_to_atom(gater_harness:cookie(value(world, Config))),
    gater_harness:on(Beam, fun() ->
        {ok, _} = net_kernel:start([Name, longnames]),
        true = erlang:set_cookie(Cookie)
    end),
    {ok, Gateway} = followed(Beam, Name, fun(Gateway) -> Gateway =/= ?PIPED end),
    %% Another node sees it there.
    Other = gater_harness:node(value(world, Config), #{modules => [?MODULE]}),
    gater_harness:until(fun() ->
        gater_harness:on(Other, fun() ->
            pong = net_adm:ping(Gateway),
            {ok, Workers} = gen_server:call({esdb_gater_worker_registry, Gateway},
                                            {get_workers, moving}),
            [Name] =:= [Node || {Node, _} <- Workers]
        end)
    end),
    gater_harness:on(Beam, fun() -> ok = net_kernel:stop() end),
    {ok, ?PIPED} = followed(Beam, nonode@nohost, fun(Is) -> Is =:= ?PIPED end),
    gater_harness:on(Beam, fun() ->
        Worker = whereis(worker),
        {ok, {Worker, 1}} =
            esdb_gater_api:execute(moving, fun(W) -> gen_server:call(W, {echo, 1}) end)
    end).

%% Worker and subscriber are at the gateway that serves the node under its name.
followed(Beam, Name, IsGateway) ->
    gater_harness:on(Beam, fun() ->
        gater_harness:until(fun() ->
            case esdb_gater_link:gateway() of
                {ok, Gateway} ->
                    IsGateway(Gateway) andalso
                        {ok, [Name]} =:= case esdb_gater_api:get_workers(moving) of
                                             {ok, Workers} -> {ok, [Node || {Node, _} <- Workers]}
                                         end;
                none ->
                    false
            end
        end),
        gater_harness:until(fun() ->
            _ = esdb_channel_server:publish(?EVENTS, <<"moving">>, Name),
            lists:member({channel_message, ?EVENTS, <<"moving">>, Name},
                         gater_agent:messages(whereis(reader)))
        end),
        esdb_gater_link:gateway()
    end).

a_data_directory_is_left_alone(Config) ->
    %% The pids in it would be taken for those of this life.
    Dir = filename:join(gater_harness:dir(value(world, Config)), "unused"),
    Beam = nameless(Config),
    ok = gater_shim:start(Beam, [{data_dir, Dir} | gater_shim:embedded()]),
    works(Beam),
    false = filelib:is_file(Dir).

works(Beam) ->
    gater_harness:on(Beam, fun() ->
        Worker = spawn(fun gater_shim:echo/0),
        ok = esdb_gater_api:register_worker(works, Worker),
        {ok, {Worker, 1}} =
            esdb_gater_api:execute(works, fun(W) -> gen_server:call(W, {echo, 1}) end)
    end).

nameless(Config) -> nameless(Config, #{}).

nameless(Config, Options) ->
    gater_shim:node(value(world, Config), [?MODULE], Options#{name => none}).

on(Config, Fun) -> gater_harness:on(value(beam, Config), Fun).

value(Key, Config) -> proplists:get_value(Key, Config).
