%% @doc What a gateway bounds, so that nobody who reaches it uses up what it needs itself.
-module(limits_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([connections_beyond_the_open_files_are_refused_and_the_log_goes_on/1,
         a_soft_limit_of_open_files_is_raised/1,
         a_limit_that_leaves_no_room_for_connections_is_refused_at_the_start/1]).

-define(REGISTRY, esdb_gater_worker_registry).

suite() -> [{timetrap, {minutes, 4}}].

all() ->
    [connections_beyond_the_open_files_are_refused_and_the_log_goes_on,
     a_soft_limit_of_open_files_is_raised,
     a_limit_that_leaves_no_room_for_connections_is_refused_at_the_start].

init_per_suite(Config) ->
    World = gater_harness:new(),
    [{world, World} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

connections_beyond_the_open_files_are_refused_and_the_log_goes_on(Config) ->
    World = value(world, Config),
    Limit = 256,
    DataDir = filename:join(gater_harness:dir(World), "few_files"),
    Gateway = gater_harness:gateway(World,
        #{via => limited("ulimit -n " ++ integer_to_list(Limit)), data_dir => DataDir}),
    Beam = gater_harness:node(World, #{modules => [?MODULE]}),
    {_, Pid} = gater_harness:agent(Beam),
    ok = gater_harness:call(Beam, {?REGISTRY, Gateway}, {register, before, Pid}),
    Allowed = allowed(Gateway),
    ?assert(Allowed > Limit div 4 andalso Allowed < Limit, Allowed),
    %% Sockets without a word, and nodes, more of both than there are descriptors.
    Silent = [Socket || _ <- lists:seq(1, Limit), {ok, Socket} <- [open(Gateway)]],
    Peers = [Socket || N <- lists:seq(1, Limit), {ok, Socket} <- [peer(World, Gateway, N)]],
    %% The BEAM is connected as well.
    ?assertEqual(Allowed - 1, length(Peers)),
    ?assert(gater_harness:alive(Gateway)),
    %% Enough for further segments of the log, which are new files.
    Segments = segments(DataDir),
    gater_harness:until(fun() ->
        write_much(Beam, Gateway, Pid),
        length(segments(DataDir) -- Segments) >= 2
    end, 120000),
    ?assertEqual({ok, [{node(Pid), Pid}]},
        gater_harness:call(Beam, {?REGISTRY, Gateway}, {get_workers, before})),
    ?assertEqual(nomatch, binary:match(gater_harness:log(Gateway), <<"Too many open files">>)),
    ?assertMatch({_, _}, binary:match(gater_harness:log(Gateway), <<"too many connections">>)),
    %% What is given back can be had again.
    [ok = gen_tcp:close(Socket) || Socket <- Silent ++ Peers],
    gater_harness:until(fun() ->
        case peer(World, Gateway, 0) of
            {ok, Socket} -> gen_tcp:close(Socket), true;
            _ -> false
        end
    end).

a_soft_limit_of_open_files_is_raised(Config) ->
    World = value(world, Config),
    %% The programs that CI runs below have a hard limit of far more.
    Gateway = gater_harness:gateway(World, #{via => limited("ulimit -Sn 64")}),
    ?assert(allowed(Gateway) >= 256),
    Peers = [element(2, {ok, _} = peer(World, Gateway, N)) || N <- lists:seq(1, 200)],
    [ok = gen_tcp:close(Socket) || Socket <- Peers],
    ok.

a_limit_that_leaves_no_room_for_connections_is_refused_at_the_start(Config) ->
    {error, {ended, 1, Log}} = gater_harness:launch(value(world, Config),
        #{via => limited("ulimit -n 64")}),
    ?assertMatch({_, _}, binary:match(Log, <<"64 open files">>), Log),
    ?assertMatch({_, _}, binary:match(Log, <<"LimitNOFILE">>), Log).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

%% A command that runs another under limits of the shell.
limited(Limits) -> ["/bin/sh", "-c", Limits ++ "; exec \"$@\"", "sh"].

%% The connections that a gateway said it takes.
allowed(Gateway) ->
    {match, [Number]} = re:run(gater_harness:log(Gateway), "\"?connections\"?[=:]\"?([0-9]+)",
        [{capture, all_but_first, list}]),
    list_to_integer(Number).

open(#{port := Port}) -> gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}], 5000).

peer(World, #{port := Port}, N) ->
    Name = "peer" ++ integer_to_list(N) ++ "@127.0.0.1",
    gater_wire:connect(Port, Name, gater_harness:cookie(World)).

segments(DataDir) ->
    [File || File <- filelib:wildcard("**/*", DataDir), filelib:is_regular(filename:join(DataDir, File))].

%% About a megabyte of log records, whose registrations are gone again afterwards.
write_much(Beam, #{node := Gater}, Pid) ->
    gater_harness:on(Beam, fun() ->
        Names = [binary_to_atom(<<(integer_to_binary(N))/binary, (binary:copy(<<"x">>, 240))/binary>>)
                 || N <- lists:seq(1, 200)],
        [begin
             Ids = [gen_server:send_request({?REGISTRY, Gater}, {What, Name, Pid}) || Name <- Names],
             [{reply, ok} = gen_server:receive_response(Id, 20000) || Id <- Ids]
         end || _ <- lists:seq(1, 5), What <- [register, unregister]],
        ok
    end).
