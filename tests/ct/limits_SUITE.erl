%% @doc What a gateway bounds, so that nobody who reaches it uses up what it needs itself.
-module(limits_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([connections_beyond_the_open_files_are_refused_and_the_log_goes_on/1,
         a_soft_limit_of_open_files_is_raised/1,
         a_limit_that_leaves_no_room_for_connections_is_refused_at_the_start/1,
         counts_of_departed_nodes_are_folded_and_info_stays_small/1,
         an_outage_of_a_node_is_one_warning_and_its_total/1,
         nodes_that_do_not_exist_keep_nobody_from_being_reached/1,
         a_node_brings_so_many_names_of_stores_and_others_bring_more/1,
         unfinished_messages_of_all_nodes_are_bounded/1,
         a_shim_attaches_to_a_large_registry/1,
         a_full_disk_is_a_state_that_ends_when_there_is_room/1]).

-define(CHANNELS, [esdb_channel_events, esdb_channel_metrics, esdb_channel_logging]).
-define(SESSION, esdb_gater_session).

-define(REGISTRY, esdb_gater_worker_registry).

suite() -> [{timetrap, {minutes, 4}}].

all() ->
    [connections_beyond_the_open_files_are_refused_and_the_log_goes_on,
     a_soft_limit_of_open_files_is_raised,
     a_limit_that_leaves_no_room_for_connections_is_refused_at_the_start,
     counts_of_departed_nodes_are_folded_and_info_stays_small,
     an_outage_of_a_node_is_one_warning_and_its_total,
     nodes_that_do_not_exist_keep_nobody_from_being_reached,
     a_node_brings_so_many_names_of_stores_and_others_bring_more,
     unfinished_messages_of_all_nodes_are_bounded,
     a_shim_attaches_to_a_large_registry,
     a_full_disk_is_a_state_that_ends_when_there_is_room].

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

counts_of_departed_nodes_are_folded_and_info_stays_small(Config) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World, #{env => [{"ESDB_GATER_LOST_GRACE_SECONDS", "5"}]}),
    Beam = gater_harness:node(World),
    Info = info_bytes(Beam, Gateway),
    Nodes = 20,
    [begin
         Departed = gater_harness:node(World, #{name => "departed" ++ integer_to_list(N)}),
         lose_messages(World, Beam, Gateway, Departed)
     end || N <- lists:seq(1, 2)],
    [lose_messages_of_raw_peer(World, Beam, Gateway, N) || N <- lists:seq(1, Nodes)],
    gater_harness:until(fun() ->
        #{dropped := Dropped} = gater_harness:call(Beam, {?SESSION, Gateway}, counts),
        [others] =:= lists:usort([Node || #{node := Node} <- Dropped])
            andalso lists:sum([Count || #{count := Count} <- Dropped]) >= Nodes + 2
    end),
    ?assertEqual(ok, gater_harness:call(Beam, {?SESSION, Gateway}, ping)),
    %% Numbers have grown by a byte or two.
    ?assert(abs(info_bytes(Beam, Gateway) - Info) < 16).

an_outage_of_a_node_is_one_warning_and_its_total(Config) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World),
    Beam = gater_harness:node(World),
    Name = gater_harness:unique("outage"),
    Subscriber = #{node := Node} = gater_harness:node(World, #{name => Name}),
    {_, Pid} = gater_harness:agent(Subscriber),
    [ok = gater_harness:call(Beam, {Channel, Gateway}, {subscribe, <<"t">>, Pid}) || Channel <- ?CHANNELS],
    ok = gater_harness:kill_node(World, Subscriber),
    gater_harness:until(fun() -> lines_with(Gateway, [<<"disconnected\"">>, Node]) =/= [] end),
    [ok = gater_harness:call(Beam, {Channel, Gateway}, {publish, <<"t">>, N})
     || N <- lists:seq(1, 100), Channel <- ?CHANNELS],
    ?assertMatch([_], lines_with(Gateway, [<<"not delivered">>, <<"WARN">>, Node])),
    ?assertEqual([], lines_with(Gateway, [<<"were not delivered">>, Node])),
    %% It comes back: the subscriber is gone with the node's earlier life, and nothing is lost any more.
    Again = gater_harness:node(World, #{name => Name, modules => [?MODULE]}),
    #{node := Gater} = Gateway,
    pong = gater_harness:on(Again, fun() -> net_adm:ping(Gater) end),
    gater_harness:until(fun() -> lines_with(Gateway, [<<"were not delivered">>, Node]) =/= [] end),
    [Line] = lines_with(Gateway, [<<"were not delivered">>, Node]),
    Lost = integer_to_binary(100 * length(?CHANNELS)),
    ?assertMatch({_, _}, binary:match(Line, <<"\"lost\":", Lost/binary>>), Line),
    ?assertMatch([_], lines_with(Gateway, [<<"not delivered">>, <<"WARN">>, Node])).

%% Their hosts are addresses of a network that is kept for documents (RFC 5737): whoever dials them
%% waits. The subscriptions are casts, so that only dials wait.
nodes_that_do_not_exist_keep_nobody_from_being_reached(Config) ->
    World = value(world, Config),
    Gateway = #{port := Port} = gater_harness:gateway(World),
    Name = "forger@127.0.0.1",
    {ok, Socket} = gater_wire:connect(Port, Name, gater_harness:cookie(World), #{creation => 5}),
    From = gater_wire:pid(Name, 1, 5),
    Forged = [gater_wire:pid("n" ++ integer_to_list(N) ++ "@host" ++ integer_to_list(N) ++ ".invalid", 1, 1)
              || N <- lists:seq(1, 5000)],
    [ok = gater_wire:cast(Socket, From, esdb_channel_logging, {subscribe, <<"t">>, Pid}) || Pid <- Forged],
    %% One node may have the gateway look for so many, and no more.
    ?assertEqual({error, overloaded},
        gater_wire:call(Socket, From, ?REGISTRY, {register, forged, lists:last(Forged)})),
    %% Others are not concerned: a node that the gateway has to dial.
    Beam = gater_harness:node(World),
    {_, Pid} = gater_harness:agent(gater_harness:node(World)),
    ?assertEqual(ok, gater_harness:call(Beam, {?REGISTRY, Gateway}, {register, honest, Pid})),
    ?assertEqual({ok, [{node(Pid), Pid}]},
        gater_harness:call(Beam, {?REGISTRY, Gateway}, {get_workers, honest})),
    gater_harness:until(fun() -> lines_with(Gateway, [<<"node not reached">>]) =/= [] end),
    ?assert(length(lines_with(Gateway, [<<"node not reached">>])) < 200),
    %% The end does not wait for dials.
    ok = gater_harness:signal(Gateway, "TERM"),
    ?assertEqual(0, gater_harness:await_exit(World, Gateway)),
    gen_tcp:close(Socket).

a_node_brings_so_many_names_of_stores_and_others_bring_more(Config) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World, #{env => [{"ESDB_GATER_STORE_NAMES", "100"}]}),
    [First, Second] = [gater_harness:node(World) || _ <- [1, 2]],
    Register = fun(Beam, Pid, Prefix) ->
        [gater_harness:call(Beam, {?REGISTRY, Gateway}, {register, name(Prefix, N), Pid})
         || N <- lists:seq(1, 40)]
    end,
    {_, Pid} = gater_harness:agent(First),
    {_, Other} = gater_harness:agent(Second),
    ?assertEqual(lists:duplicate(25, ok) ++ lists:duplicate(15, {error, overloaded}),
        Register(First, Pid, "first")),
    ?assertMatch([_ | _], lines_with(Gateway, [<<"limits.store_names">>, node(Pid)])),
    %% What is known stays so, also when it was unregistered; others have a share of their own.
    Again = name("first", 1),
    ok = gater_harness:call(First, {?REGISTRY, Gateway}, {unregister, Again, Pid}),
    ?assertEqual(ok, gater_harness:call(First, {?REGISTRY, Gateway}, {register, Again, Pid})),
    ?assertEqual(25, length([ok || ok <- Register(Second, Other, "second")])),
    %% Casts are no way around it.
    ok = gater_harness:cast(First, {?REGISTRY, Gateway}, {register, name("cast", 1), Pid}),
    ?assertEqual({ok, []}, gater_harness:call(First, {?REGISTRY, Gateway}, {get_workers, name("cast", 1)})).

%% Each has less than one node alone may have.
unfinished_messages_of_all_nodes_are_bounded(Config) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World, #{env => [{"ESDB_GATER_UNFINISHED_BYTES", "67108864"}]}),
    Beam = gater_harness:node(World),
    {_, Pid} = gater_harness:agent(Beam),
    ok = gater_harness:call(Beam, {?REGISTRY, Gateway}, {register, honest, Pid}),
    Before = gater_harness:resident_bytes(Gateway),
    Part = binary:copy(<<0>>, 1 bsl 20),
    Sockets = [begin
        {ok, Socket} = peer(World, Gateway, N),
        ok = gen_tcp:send(Socket, <<(60 bsl 20):32, 112>>),
        %% One that is closed in between cannot take it all.
        _ = [gen_tcp:send(Socket, Part) || _ <- lists:seq(1, 30)],
        Socket
    end || N <- lists:seq(1, 20)],
    gater_harness:until(fun() -> lines_with(Gateway, [<<"unfinished messages of all">>]) =/= [] end),
    gater_harness:until(fun() -> gater_harness:resident_bytes(Gateway) < Before + (256 bsl 20) end),
    ?assertEqual({ok, [{node(Pid), Pid}]},
        gater_harness:call(Beam, {?REGISTRY, Gateway}, {get_workers, honest})),
    [gen_tcp:close(Socket) || Socket <- Sockets],
    ok.

%% More than fits into a lane at once: the names of stores and nodes are long.
a_shim_attaches_to_a_large_registry(Config) ->
    World = value(world, Config),
    Gateway = #{port := Port} = gater_harness:gateway(World),
    Name = "holder" ++ lists:duplicate(200, $x) ++ "@127.0.0.1",
    {ok, Socket} = gater_wire:connect(Port, Name, gater_harness:cookie(World), #{creation => 5}),
    From = gater_wire:pid(Name, 1, 5),
    Workers = 300000,
    Stores = list_to_tuple([name(lists:duplicate(200, $s), N) || N <- lists:seq(1, 1000)]),
    [begin
         ok = gen_tcp:send(Socket, [gater_wire:frame(
             term_to_binary({6, From, '', ?REGISTRY}),
             term_to_binary({'$gen_cast', {register, element(N rem 1000 + 1, Stores),
                                           gater_wire:pid(Name, N, 5)}}))
             || N <- lists:seq(First, First + 999)]),
         ok = gater_wire:call(Socket, From, ?SESSION, ping),
         registered(Socket, From, First - 5000)
     end || First <- lists:seq(1, Workers, 1000)],
    registered(Socket, From, Workers),
    %% As a node does that is there: the gateway watches its processes.
    Drain = spawn_link(fun() -> drain(Socket) end),
    Shim = gater_shim:node(World, [?MODULE]),
    Count = fun() ->
        case esdb_gater_api:get_workers(element(1, Stores)) of
            {ok, Found} -> length(Found);
            {error, no_gateway} -> none
        end
    end,
    ok = gater_shim:start(Shim, gater_shim:named([Gateway])),
    gater_harness:until(fun() ->
        gater_harness:on(Shim, Count) =:= Workers div 1000
    end, 180000),
    %% All of them go at once.
    unlink(Drain),
    ok = gen_tcp:close(Socket),
    gater_harness:until(fun() -> gater_harness:on(Shim, Count) =:= 0 end, 180000),
    ?assertEqual([], lines_with(Gateway, [<<"lane Control is full">>])).

%% A disk with room for one segment of the log, and not for two.
a_full_disk_is_a_state_that_ends_when_there_is_room(Config) ->
    World = value(world, Config),
    Dir = filename:join(gater_harness:dir(World), "small_disk"),
    ok = filelib:ensure_path(Dir),
    case os:cmd("mount -t tmpfs -o size=6m none " ++ Dir ++ " && echo mounted") of
        "mounted\n" ->
            try full_disk(World, Dir) after os:cmd("umount -l " ++ Dir) end;
        Why ->
            {skip, "no file system can be mounted here: " ++ Why}
    end.

full_disk(World, Dir) ->
    Gateway = gater_harness:gateway(World, #{data_dir => filename:join(Dir, "data")}),
    Beam = gater_harness:node(World, #{modules => [?MODULE]}),
    {_, Pid} = gater_harness:agent(Beam),
    Call = fun(Request) -> gater_harness:call(Beam, {?REGISTRY, Gateway}, Request, 20000) end,
    ok = Call({register, before, Pid}),
    gater_harness:until(fun() -> write_until_full(Beam, Gateway, Pid) end, 120000),
    %% Every write is answered so, at once, and all else goes on.
    ?assertEqual({error, disk_full}, Call({register, refused, Pid})),
    ?assertEqual({ok, [{node(Pid), Pid}]}, Call({get_workers, before})),
    ok = gater_harness:call(Beam, {esdb_channel_events, Gateway}, {publish, <<"t">>, 1}),
    ?assertMatch([_], lines_with(Gateway, [<<"the disk is full: registrations">>])),
    [] = os:cmd("mount -o remount,size=64m " ++ Dir),
    gater_harness:until(fun() -> Call({register, afterwards, Pid}) =:= ok end),
    ?assertEqual({ok, [{node(Pid), Pid}]}, Call({get_workers, afterwards})),
    %% What was answered `ok' is there after a restart; one that finds no room is ready when it can write.
    ok = gater_harness:signal(Gateway, "KILL"),
    _ = gater_harness:await_exit(World, Gateway),
    Again = gater_harness:restart(World, Gateway),
    gater_harness:until(fun() ->
        gater_harness:call(Beam, {?REGISTRY, Again}, {get_workers, before}) =:= {ok, [{node(Pid), Pid}]}
    end),
    ?assertEqual({ok, []}, gater_harness:call(Beam, {?REGISTRY, Again}, {get_workers, refused})).

%% Registers and unregisters; whether the disk was full in between.
write_until_full(Beam, #{node := Gater}, Pid) ->
    gater_harness:on(Beam, fun() ->
        Names = [name(lists:duplicate(240, $x), N) || N <- lists:seq(1, 200)],
        Ids = [gen_server:send_request({?REGISTRY, Gater}, {What, Name, Pid})
               || What <- [register, unregister], Name <- Names],
        Answers = [element(2, gen_server:receive_response(Id, 20000)) || Id <- Ids],
        [] =:= lists:usort(Answers) -- [ok, {error, disk_full}] andalso lists:member({error, disk_full}, Answers)
    end, 60000).

drain(Socket) ->
    case gater_wire:receive_frame(Socket, infinity) of
        {ok, _} -> drain(Socket);
        {error, closed} -> ok
    end.

registered(Socket, From, Least) ->
    gater_harness:until(fun() ->
        #{registrations := Count} = gater_wire:call(Socket, From, ?SESSION, info),
        Count >= Least
    end, 60000).

name(Prefix, N) -> list_to_atom(Prefix ++ integer_to_list(N)).

%%% Helpers

lines_with(Gateway, Texts) ->
    [Line || Line <- binary:split(gater_harness:log(Gateway), <<"\n">>, [global]),
             lists:all(fun(Text) -> binary:match(Line, text(Text)) =/= nomatch end, Texts)].

text(Text) when is_atom(Text) -> atom_to_binary(Text);
text(Text) -> Text.

info_bytes(Beam, Gateway) ->
    Info = #{node := _} = gater_harness:call(Beam, {?SESSION, Gateway}, info),
    byte_size(term_to_binary(Info)).

%% A subscriber on a node that goes away loses a message.
lose_messages(World, Beam, Gateway, Departed = #{node := Node}) ->
    {_, Pid} = gater_harness:agent(Departed),
    ok = subscribe(Beam, Gateway, Pid),
    ok = gater_harness:kill_node(World, Departed),
    gater_harness:until(fun() -> publish_and_lost(Beam, Gateway, Node) end).

lose_messages_of_raw_peer(World, Beam, Gateway, N) ->
    Creation = 5,
    Name = "raw" ++ integer_to_list(N) ++ "@127.0.0.1",
    Cookie = gater_harness:cookie(World),
    {ok, Socket} = gater_wire:connect(maps:get(port, Gateway), Name, Cookie, #{creation => Creation}),
    Node = list_to_atom(Name),
    ok = subscribe(Beam, Gateway, binary_to_term(pid_of(Name, Creation))),
    ok = gen_tcp:close(Socket),
    gater_harness:until(fun() -> publish_and_lost(Beam, Gateway, Node) end).

%% NEW_PID_EXT, section "External Term Format" of the manual.
pid_of(Name, Creation) ->
    Atom = list_to_binary(Name),
    <<131, 88, 119, (byte_size(Atom)), Atom/binary, 77:32, 0:32, Creation:32>>.

subscribe(Beam, Gateway, Pid) ->
    gater_harness:call(Beam, {esdb_channel_logging, Gateway}, {subscribe, <<"t">>, Pid}).

%% Whether the node has lost a message, be it that it is counted with the others by now.
publish_and_lost(Beam, Gateway, Node) ->
    ok = gater_harness:call(Beam, {esdb_channel_logging, Gateway}, {publish, <<"t">>, 1}),
    lines_with(Gateway, [<<"not delivered">>, Node]) =/= [].

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
