%% @doc Connected nodes share one embedded gateway: found, taken over, merged.
-module(shim_shared_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([three_nodes_share_one_program/1, nodes_that_start_together_start_one_program/1,
         nodes_that_meet_later_merge_into_the_elders_gateway/1,
         a_killed_host_is_replaced_within_three_seconds_under_load/1,
         a_host_that_stops_the_application_hands_over/1,
         a_killed_program_is_started_again_by_its_host/1,
         a_silent_host_is_replaced/1,
         after_a_netsplit_there_is_one_gateway_again/1,
         the_side_of_the_host_may_be_the_smaller_one/1,
         nodes_without_a_secret_verify_each_others_messages/1,
         a_gateway_listens_for_nodes_of_other_hosts/1,
         a_node_whose_program_is_missing_uses_that_of_another/1,
         a_gateway_that_cannot_be_reached_is_replaced_by_an_own_one/1,
         nodes_of_otp_25_and_27_share_one_program/1,
         nodes_of_otp_25_and_29_share_one_program/1,
         named_gateways_and_nodes_without_the_application_take_no_part/1,
         every_process_of_it_may_crash/1]).

-define(EVENTS, esdb_channel_events).
-define(ALERTS, esdb_channel_alerts).
-define(TOPIC, <<"topic">>).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [three_nodes_share_one_program, nodes_that_start_together_start_one_program,
     nodes_that_meet_later_merge_into_the_elders_gateway,
     a_killed_host_is_replaced_within_three_seconds_under_load,
     a_host_that_stops_the_application_hands_over,
     a_killed_program_is_started_again_by_its_host,
     a_silent_host_is_replaced,
     after_a_netsplit_there_is_one_gateway_again,
     the_side_of_the_host_may_be_the_smaller_one,
     nodes_without_a_secret_verify_each_others_messages,
     a_gateway_listens_for_nodes_of_other_hosts,
     a_node_whose_program_is_missing_uses_that_of_another,
     a_gateway_that_cannot_be_reached_is_replaced_by_an_own_one,
     nodes_of_otp_25_and_27_share_one_program, nodes_of_otp_25_and_29_share_one_program,
     named_gateways_and_nodes_without_the_application_take_no_part,
     every_process_of_it_may_crash].

init_per_testcase(_Case, Config) ->
    [{world, gater_harness:new()} | Config].

end_per_testcase(_Case, Config) ->
    gater_harness:stop(value(world, Config)).

%%% Finding one

three_nodes_share_one_program(Config) ->
    [A | _] = Beams = connected(Config, 3),
    [ok = start(Config, Beam) || Beam <- Beams],
    share(Beams, [A]),
    all_works(Beams),
    ?assertEqual(1, programs(Config)).

nodes_that_start_together_start_one_program(Config) ->
    Beams = connected(Config, 4),
    Self = self(),
    [spawn_link(fun() -> Self ! {started, start(Config, Beam)} end) || Beam <- Beams],
    [receive {started, ok} -> ok end || _ <- Beams],
    share(Beams, Beams),
    all_works(Beams),
    until(fun() -> programs(Config) =:= 1 end).

nodes_that_meet_later_merge_into_the_elders_gateway(Config) ->
    [A, _, _] = Beams = [gater_shim:node(value(world, Config), [?MODULE]) || _ <- [1, 2, 3]],
    [begin ok = start(Config, Beam), {ok, _} = gateway(Beam) end || Beam <- Beams],
    ?assertEqual(3, programs(Config)),
    Members = [member(Beam) || Beam <- Beams],
    connect(Beams),
    share(Beams, [A]),
    all_there(Members),
    until(fun() -> programs(Config) =:= 1 end),
    all_there(Members).

%%% Losing it

a_killed_host_is_replaced_within_three_seconds_under_load(Config) ->
    [Host | Others] = Beams = connected(Config, 4),
    [ok = start(Config, Beam) || Beam <- Beams],
    share(Beams, [Host]),
    Members = [member(Beam) || Beam <- Others],
    [begin
         gater_shim:workers(Beam, store, 20),
         [ok = on(Beam, fun() ->
              esdb_channel_server:subscribe(?EVENTS, integer_to_binary(I), gater_agent:start())
          end) || I <- lists:seq(1, 20)]
     end || Beam <- Others],
    until(fun() -> lists:all(fun(Beam) -> length(workers(Beam, store)) =:= 60 end, Others) end),
    Loads = [{Beam, on(Beam, fun() -> gater_shim:load(2) end)} || Beam <- Others],
    gater_harness:signal(Host, "KILL"),
    Killed = gater_harness:stopwatch(),
    until(fun() ->
        lists:all(fun(Beam) -> length(workers(Beam, store)) =:= 60 end, Others)
            andalso is_shared(Others, Others)
    end),
    all_there(Members),
    Took = gater_harness:within(Killed, 3000),
    ct:log("taken over in ~b ms", [Took]),
    {ok, Gateway} = gateway(hd(Others)),
    ?assertEqual(60, length(registered_at(hd(Others), Gateway, store))),
    [?assertEqual([], failures(Beam, Load)) || {Beam, Load} <- Loads],
    until(fun() -> programs(Config) =:= 1 end).

a_host_that_stops_the_application_hands_over(Config) ->
    [Host | Others] = Beams = connected(Config, 3),
    [ok = start(Config, Beam) || Beam <- Beams],
    share(Beams, [Host]),
    Members = [member(Beam) || Beam <- Others],
    ok = on(Host, fun() -> application:stop(erl_esdb_gater) end),
    share(Others, Others),
    all_there(Members),
    ?assertEqual(1, programs(Config)),
    %% Back, it uses what there is.
    ok = start(Config, Host),
    share(Beams, Others),
    all_there([member(Host) | Members]),
    ?assertEqual(1, programs(Config)).

a_killed_program_is_started_again_by_its_host(Config) ->
    [Host | _] = Beams = connected(Config, 3),
    [ok = start(Config, Beam) || Beam <- Beams],
    share(Beams, [Host]),
    Members = [member(Beam) || Beam <- Beams],
    {ok, Program} = on(Host, fun esdb_gater_port:os_pid/0),
    gater_harness:signal(#{os_pid => Program}, "KILL"),
    Killed = gater_harness:stopwatch(),
    until(fun() -> not gater_harness:alive(#{os_pid => Program}) end),
    all_there(Members),
    _ = gater_harness:within(Killed, 3000),
    share(Beams, [Host]),
    ?assertEqual(1, programs(Config)).

%% As a machine that is gone without a word: neither its node nor its gateway says anything.
a_silent_host_is_replaced(Config) ->
    [Host | Others] = Beams = connected(Config, 3),
    [ok = start(Config, Beam, [{gateway_timeout_ms, 500}]) || Beam <- Beams],
    share(Beams, [Host]),
    Members = [member(Beam) || Beam <- Others],
    {ok, Program} = on(Host, fun esdb_gater_port:os_pid/0),
    gater_harness:signal(Host, "STOP"),
    gater_harness:signal(#{os_pid => Program}, "STOP"),
    Stopped = gater_harness:stopwatch(),
    share(Others, Others),
    _ = gater_harness:within(Stopped, 3000),
    all_there(Members),
    gater_harness:signal(#{os_pid => Program}, "CONT"),
    gater_harness:signal(Host, "CONT"),
    %% It is the elder's turn again.
    connect(Beams),
    share(Beams, [Host]),
    all_there([member(Host) | Members]).

%%% Netsplits

after_a_netsplit_there_is_one_gateway_again(Config) ->
    [Host | _] = Beams = connected(Config, 3),
    [ok = start(Config, Beam) || Beam <- Beams],
    split_and_heal(Config, Host, Beams, lists:last(Beams)).

the_side_of_the_host_may_be_the_smaller_one(Config) ->
    [Host | _] = Beams = connected(Config, 3),
    [ok = start(Config, Beam) || Beam <- Beams],
    split_and_heal(Config, Host, Beams, Host).

split_and_heal(Config, Host, Beams, Alone) ->
    share(Beams, [Host]),
    Members = [member(Beam) || Beam <- Beams],
    Others = Beams -- [Alone],
    Cookie = list_to_atom(gater_harness:cookie(value(world, Config))),
    %% Whoever is not connected now is kept out, gateways too.
    Kept = case Alone of Host -> {ok, G} = gateway(Host), [G]; _ -> [] end,
    on(Alone, fun() ->
        true = erlang:set_cookie(node(), another),
        [erlang:disconnect_node(Node) || Node <- nodes() ++ (nodes(hidden) -- Kept)],
        ok
    end),
    share(Others, Others),
    share([Alone], [Alone]),
    until(fun() -> gateway(Alone) =/= gateway(hd(Others)) end),
    all_there([Member || {Beam, _, _, _} = Member <- Members, Beam =/= Alone]),
    all_there([Member || {Beam, _, _, _} = Member <- Members, Beam =:= Alone]),
    on(Alone, fun() -> true = erlang:set_cookie(node(), Cookie), ok end),
    connect(Beams),
    share(Beams, [Host]),
    all_there(Members),
    until(fun() -> programs(Config) =:= 1 end),
    all_there(Members).

%%% What comes with it

nodes_without_a_secret_verify_each_others_messages(Config) ->
    [_, B, C] = Beams = connected(Config, 3),
    [ok = start(Config, Beam) || Beam <- Beams],
    share(Beams, Beams),
    {_, Pid} = Agent = gater_harness:agent(C),
    ok = on(C, fun() -> esdb_channel_server:subscribe(?ALERTS, ?TOPIC, Pid) end),
    ok = on(B, fun() ->
        esdb_channel_server:publish(?ALERTS, ?TOPIC, esdb_pubsub_security:sign(#{from => b}))
    end),
    until(fun() -> length(gater_harness:messages(Agent)) =:= 1 end),
    [{channel_message, ?ALERTS, ?TOPIC, Signed}] = gater_harness:messages(Agent),
    [?assertEqual(ok, on(Beam, fun() -> esdb_pubsub_security:verify(Signed) end))
     || Beam <- Beams].

a_gateway_listens_for_nodes_of_other_hosts(Config) ->
    World = value(world, Config),
    %% Hosts of their own, as far as names tell.
    [A, B, C] = [gater_shim:node(World, [?MODULE], #{host => Host})
                 || Host <- ["127.0.0.2", "127.0.0.2", "127.0.0.3"]],
    connect([A, B]),
    [ok = start(Config, Beam) || Beam <- [A, B]],
    share([A, B], [A]),
    {ok, Near} = gateway(A),
    ?assertEqual("127.0.0.1", host(Near)),
    Members = [member(Beam) || Beam <- [A, B]],
    connect([A, B, C]),
    ok = start(Config, C),
    share([A, B, C], [A]),
    {ok, Open} = gateway(C),
    ?assertEqual("127.0.0.2", host(Open)),
    all_there([member(C) | Members]),
    ?assertEqual(1, programs(Config)).

a_node_whose_program_is_missing_uses_that_of_another(Config) ->
    [A, B] = Beams = connected(Config, 2),
    ok = start(Config, A, [{program, "/nowhere/esdb-gater"}]),
    ok = start(Config, B),
    share(Beams, [B]),
    all_works(Beams).

a_gateway_that_cannot_be_reached_is_replaced_by_an_own_one(Config) ->
    [Host, Guest] = Beams = connected(Config, 2),
    [ok = start(Config, Beam) || Beam <- Beams],
    share(Beams, [Host]),
    Members = [member(Beam) || Beam <- Beams],
    {ok, Gateway} = gateway(Host),
    on(Guest, fun() ->
        true = erlang:set_cookie(Gateway, another),
        true = erlang:disconnect_node(Gateway),
        ok
    end),
    share([Guest], [Guest]),
    [all_there([Member]) || Member <- Members].

nodes_of_otp_25_and_27_share_one_program(Config) ->
    releases_share_one_program(Config, 27).

nodes_of_otp_25_and_29_share_one_program(Config) ->
    releases_share_one_program(Config, 29).

releases_share_one_program(Config, Release) ->
    case gater_release:root(Release) of
        {skip, _} = Skip ->
            Skip;
        {ok, _} ->
            Host = gater_shim:node(value(world, Config), [?MODULE]),
            Guest = gater_shim:node(value(world, Config), [?MODULE], #{otp => Release}),
            connect([Host, Guest]),
            ok = start(Config, Host),
            ok = gater_shim:start(Guest, [{program, "/nowhere/esdb-gater"}]),
            share([Host, Guest], [Host]),
            all_works([Host, Guest]),
            ?assertEqual(1, programs(Config))
    end.

named_gateways_and_nodes_without_the_application_take_no_part(Config) ->
    [A, B, Without, Named] = connected(Config, 4),
    Gateway = gater_harness:gateway(value(world, Config)),
    ok = gater_shim:start(Named, gater_shim:named([Gateway])),
    [ok = start(Config, Beam) || Beam <- [A, B]],
    share([A, B], [A]),
    #{peers := Peers} = on(A, fun esdb_gater_embedded:status/0),
    ?assertEqual(lists:sort([maps:get(node, Beam) || Beam <- [A, B]]), lists:sort(maps:keys(Peers))),
    ?assertEqual({ok, maps:get(node, Gateway)}, gateway(Named)),
    ?assertEqual(undefined, on(Without, fun() -> whereis(esdb_gater_embedded) end)).

every_process_of_it_may_crash(Config) ->
    [Host, Guest] = Beams = connected(Config, 2),
    [ok = start(Config, Beam) || Beam <- Beams],
    share(Beams, [Host]),
    Members = [member(Beam) || Beam <- Beams],
    [begin
         Killed = on(Beam, fun() -> Pid = whereis(Name), exit(Pid, kill), Pid end),
         until(fun() -> on(Beam, fun() ->
             is_pid(whereis(Name)) andalso whereis(Name) =/= Killed
         end) end),
         share(Beams, Beams),
         all_there(Members)
     end || Name <- [esdb_gater_embedded, esdb_gater_port, esdb_gater_worker_registry],
            Beam <- [Host, Guest]],
    until(fun() -> programs(Config) =:= 1 end).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

connected(Config, N) ->
    Beams = [gater_shim:node(value(world, Config), [?MODULE]) || _ <- lists:seq(1, N)],
    connect(Beams),
    Beams.

connect(Beams) ->
    Nodes = [Node || #{node := Node} <- Beams],
    [until(fun() ->
         on(Beam, fun() ->
             [net_kernel:connect_node(Node) || Node <- Nodes, Node =/= node()],
             Nodes -- [node() | nodes()] =:= []
         end)
     end) || Beam <- Beams],
    ok.

start(Config, Beam) -> start(Config, Beam, []).

%% Programs of this world are known by where they are.
start(Config, Beam, Env) ->
    Program = filename:absname(filename:join(gater_harness:dir(value(world, Config)), "esdb-gater")),
    _ = filelib:is_regular(Program) orelse file:make_symlink(gater_shim:program(), Program),
    gater_shim:start(Beam, Env ++ [E || {Key, _} = E <- [{program, Program}],
                                        not lists:keymember(Key, 1, Env)]).

%% How many gateways run in this world.
programs(Config) ->
    Dir = unicode:characters_to_binary(filename:absname(gater_harness:dir(value(world, Config)))),
    length([Id || Id <- filelib:wildcard("[0-9]*", "/proc"),
                  {ok, Line} <- [file:read_file(filename:join(["/proc", Id, "cmdline"]))],
                  [Program, <<"start">> | _] <- [binary:split(Line, <<0>>, [global])],
                  filename:basename(Program) =:= <<"esdb-gater">>,
                  binary:match(Line, Dir) =/= nomatch]).

gateway(Beam) ->
    case on(Beam, fun() -> esdb_gater_link:await_gateway(5000) end) of
        {ok, _} = Ok -> Ok;
        {error, no_gateway} -> none
    end.

host(Node) -> lists:last(string:split(atom_to_list(Node), "@")).

%% All of them come to use one gateway, which one of `Hosts' runs.
share(Beams, Hosts) -> until(fun() -> is_shared(Beams, Hosts) end).

is_shared(Beams, Hosts) ->
    InUse = lists:usort([on(Beam, fun esdb_gater_link:gateway/0) || Beam <- Beams]),
    Own = [on(Beam, fun() -> esdb_gater_shared_state:get(program) end) || Beam <- Hosts],
    case InUse of
        [{ok, Gateway}] -> lists:member({ok, Gateway}, Own);
        _ -> false
    end.

%% A worker and a subscriber that are to stay, whatever happens.
member(Beam) ->
    Store = list_to_atom(gater_harness:unique("store")),
    [Worker] = gater_shim:workers(Beam, Store, 1),
    {_, Pid} = Subscriber = gater_harness:agent(Beam),
    ok = on(Beam, fun() -> esdb_channel_server:subscribe(?EVENTS, ?TOPIC, Pid) end),
    {Beam, Store, Worker, Subscriber}.

%% Everybody finds every worker, and every subscriber hears everybody.
all_there(Members) ->
    [begin
         until(fun() -> workers(Beam, Store) =:= [Worker] end),
         Message = make_ref(),
         until(fun() ->
             ok =:= on(Beam, fun() -> esdb_channel_server:publish(?EVENTS, ?TOPIC, Message) end)
                 andalso lists:all(fun({_, _, _, Subscriber}) -> hears(Subscriber, Message) end,
                                   Members)
         end)
     end || {Beam, _, _, _} <- Members, {_, Store, Worker, _} <- Members],
    ok.

hears(Subscriber, Message) ->
    [] =/= [found || {channel_message, _, _, M} <- gater_harness:messages(Subscriber), M =:= Message].

all_works(Beams) -> all_there([member(Beam) || Beam <- Beams]).

workers(Beam, Store) ->
    case on(Beam, fun() -> esdb_gater_api:get_workers(Store) end) of
        {ok, Found} -> [Worker || {_, Worker} <- Found];
        {error, no_gateway} -> none
    end.

registered_at(Beam, Gateway, Store) ->
    {ok, Found} = on(Beam, fun() ->
        gen_server:call({esdb_gater_worker_registry, Gateway}, {get_workers, Store})
    end),
    Found.

%% What went wrong for the callers of `load/1'; each of them has done something.
failures(Beam, Load) ->
    lists:append(on(Beam, fun() ->
        [begin
             Pid ! {report, self()},
             receive {Pid, N, Failures} when N > 0 -> Failures end
         end || Pid <- Load]
    end)).
