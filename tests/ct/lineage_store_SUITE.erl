%% @doc A store and its clients, written for the original, on three nodes that share an embedded
%% gateway. The store is that of tests/consumers/lineage.
-module(lineage_store_SUITE).

-include_lib("stdlib/include/assert.hrl").
-include("esdb_gater.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2,
         end_per_testcase/2]).
-export([the_whole_data_api_answers_from_another_node/1,
         a_killed_host_costs_no_append/1]).

-define(STORE, orders).
-define(STREAM, <<"all">>).

suite() -> [{timetrap, {minutes, 3}}].

all() -> [the_whole_data_api_answers_from_another_node, a_killed_host_costs_no_append].

init_per_suite(Config) ->
    Root = case os:getenv("GATER_ROOT") of false -> "."; Set -> Set end,
    Sources = filename:join([Root, "tests", "consumers", "lineage", "src"]),
    Modules = [standin_store, standin_worker, lineage],
    Ebin = filename:dirname(code:which(?MODULE)),
    [{ok, Module} = compile:file(filename:join(Sources, Module),
                                 [debug_info, report, {outdir, Ebin}]) || Module <- Modules],
    [{standin, Modules} | Config].

end_per_suite(_Config) -> ok.

%% The first node hosts the gateway, the last keeps the events; each has workers.
init_per_testcase(_Case, Config) ->
    World = gater_harness:new(),
    Modules = [?MODULE, gater_original | value(standin, Config)],
    [Host | _] = Beams = [gater_shim:node(World, Modules) || _ <- [1, 2, 3]],
    gater_original:connect(Beams),
    Dir = gater_harness:dir(World),
    [begin
         on(Beam, fun() -> true = os:putenv("TMPDIR", Dir), ok end),
         ok = gater_shim:start(Beam, gater_shim:embedded())
     end || Beam <- Beams],
    until(fun() -> is_list(hosted(Host, Beams)) end),
    {ok, Storage} = on(lists:last(Beams), fun() -> standin_store:start(?STORE) end),
    [{ok, _} = on(Beam, fun() -> standin_worker:start(?STORE, Storage) end)
     || Beam <- Beams, _ <- [1, 2]],
    [until(fun() -> on(Beam, fun() -> esdb_gater_workers:size(?STORE) end) =:= 6 end)
     || Beam <- Beams],
    [{world, World}, {beams, Beams}, {storage, Storage} | Config].

end_per_testcase(_Case, Config) -> gater_harness:stop(value(world, Config)).

the_whole_data_api_answers_from_another_node(Config) ->
    ?assertEqual(ok, on(hd(value(beams, Config)), fun() -> lineage:client(?STORE) end)).

a_killed_host_costs_no_append(Config) ->
    [Host | Others] = value(beams, Config),
    Storage = value(storage, Config),
    Appenders = [{Beam, on(Beam, fun() -> appenders(4) end)} || Beam <- Others],
    Events = fun() -> on(lists:last(Others), fun() -> standin_store:events(Storage) end) end,
    Count = fun() -> length(Events()) end,
    until(fun() -> Count() > 200 end),
    gater_harness:signal(Host, "KILL"),
    until(fun() -> not gater_harness:alive(Host) end),
    AtKill = Count(),
    until(fun() -> is_list(hosted_by_any(Others)) end),
    until(fun() -> Count() > AtKill + 200 end),
    %% The workers of the killed node are not asked any more.
    [until(fun() -> on(Beam, fun() -> esdb_gater_workers:size(?STORE) end) =:= 4 end)
     || Beam <- Others],
    Answers = lists:append([on(Beam, fun() -> reports(Pids) end) || {Beam, Pids} <- Appenders]),
    ?assertEqual([], [Failed || {_, {error, _}} = Failed <- Answers]),
    %% What each append was told is what is there, and nothing else is.
    Told = lists:sort([{Version, Id} || {Id, {ok, Version}} <- Answers]),
    Stored = [{Version, Id} || #event{version = Version, event_id = Id} <- Events()],
    ?assertEqual(lists:seq(0, length(Told) - 1), [Version || {Version, _} <- Told]),
    ?assertEqual(Told, lists:sort(Stored)),
    {ok, Last} = on(hd(Others), fun() -> esdb_gater_api:get_version(?STORE, ?STREAM) end),
    ?assertEqual(length(Told) - 1, Last).

%%% Appenders

appenders(N) -> [spawn(fun() -> append(0, []) end) || _ <- lists:seq(1, N)].

append(N, Answers) ->
    receive
        {report, From} -> From ! {self(), Answers}
    after 0 ->
        Id = iolist_to_binary(io_lib:format("~p ~b", [self(), N])),
        Named = <<(atom_to_binary(node()))/binary, Id/binary>>,
        Answer = esdb_gater_api:append_events(?STORE, ?STREAM, [#{event_id => Named, data => N}]),
        append(N + 1, [{Named, Answer} | Answers])
    end.

reports(Pids) ->
    lists:append([begin
                      Pid ! {report, self()},
                      receive {Pid, Answers} -> Answers end
                  end || Pid <- Pids]).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

%% The one gateway that all use, if it is this node's.
hosted(Host, Beams) ->
    case {lists:usort([on(Beam, fun esdb_gater_link:gateway/0) || Beam <- Beams]),
          on(Host, fun() -> esdb_gater_shared_state:get(program) end)} of
        {[{ok, Gateway}], {ok, Gateway}} -> [Gateway];
        _ -> none
    end.

hosted_by_any(Beams) ->
    case [Gateway || Beam <- Beams, [Gateway] <- [hosted(Beam, Beams)]] of
        [] -> none;
        Found -> Found
    end.
