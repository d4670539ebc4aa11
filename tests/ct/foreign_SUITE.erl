%% @doc Workers and subscribers on nodes that are no BEAMs, and on BEAMs without a name of their
%% own: each registers, is called, subscribes, publishes, dies and is gone.
%%
%% The programs are those in the folder `foreign' beside this file, compiled here. Where their
%% compiler or library is not installed the case is skipped, with a word about what is missing.
-module(foreign_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([a_worker_on_a_java_node/1, a_worker_on_a_c_node/1, a_java_node_that_is_killed_is_gone/1,
         a_c_node_that_is_killed_is_gone/1, a_beam_without_a_name_is_given_one/1]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(EVENTS, esdb_channel_events).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [a_worker_on_a_java_node, a_worker_on_a_c_node, a_java_node_that_is_killed_is_gone,
     a_c_node_that_is_killed_is_gone, a_beam_without_a_name_is_given_one].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World, #{env => [{"ESDB_GATER_LOST_GRACE_SECONDS", "1"}]}),
    Beam = gater_harness:node(World, #{modules => [?MODULE]}),
    [{world, World}, {gateway, Gateway}, {beam, Beam} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

a_worker_on_a_java_node(Config) -> lives_and_dies(Config, fun java/1).

a_worker_on_a_c_node(Config) -> lives_and_dies(Config, fun c/1).

a_java_node_that_is_killed_is_gone(Config) -> is_killed(Config, fun java/1).

a_c_node_that_is_killed_is_gone(Config) -> is_killed(Config, fun c/1).

lives_and_dies(Config, Start) ->
    case Start(Config) of
        {skip, _} = Skip ->
            Skip;
        {ok, Program} ->
            Gateway = value(gateway, Config),
            Pid = ready(Config, Program),
            %% It is called, and gets what others publish.
            ?assertEqual({ok, {ping, 5}}, ask(Config, Pid, {ping, 5})),
            ok = gater_harness:call(value(beam, Config), {?EVENTS, Gateway},
                                    {publish, <<"foreign">>, {from, beam}}),
            <<"received {from, beam}">> = spaced(line(Program)),
            %% Whoever watches it is told by the node's own means; the connection stands until then.
            ?assertEqual([], closed(Gateway, Pid)),
            ?assertEqual({ok, die}, ask(Config, Pid, die)),
            gone(Config),
            stop(Program)
    end.

is_killed(Config, Start) ->
    case Start(Config) of
        {skip, _} = Skip ->
            Skip;
        {ok, Program} ->
            _ = ready(Config, Program),
            {os_pid, OsPid} = erlang:port_info(Program, os_pid),
            [] = os:cmd("kill -KILL " ++ integer_to_list(OsPid)),
            gone(Config),
            stop(Program)
    end.

a_beam_without_a_name_is_given_one(Config) ->
    World = value(world, Config),
    %% Such a node has a short name: its host is that of the machine, whatever it is called.
    Gateway = #{node := Gater} = gater_harness:gateway(World,
        #{name => gater_harness:unique("short") ++ "@localhost"}),
    Start = fun() ->
        {ok, Peer, _} = peer:start(#{connection => standard_io,
            args => ["-setcookie", gater_harness:cookie(World), "-sname", "undefined"]}),
        Peer
    end,
    On = fun(Peer, M, F, A) -> peer:call(Peer, M, F, A, 20000) end,
    [First, Second] = Peers = [Start(), Start()],
    [?assertEqual(nonode@nohost, On(Peer, erlang, node, [])) || Peer <- Peers],
    [?assertEqual(true, On(Peer, net_kernel, connect_node, [Gater])) || Peer <- Peers],
    [Name, Other] = [On(Peer, erlang, node, []) || Peer <- Peers],
    [?assertNotEqual(nonode@nohost, Node) || Node <- [Name, Other]],
    ?assertNotEqual(Name, Other),
    ?assertEqual(pong, On(First, net_adm, ping, [Gater])),
    %% It works for a store and hears what is published, as any node does.
    Worker = On(First, erlang, spawn, [timer, sleep, [infinity]]),
    ?assertEqual(ok, On(First, gen_server, call, [{?REGISTRY, Gater}, {register, unnamed, Worker}])),
    ?assertEqual({ok, [{Name, Worker}]}, On(First, gen_server, call, [{?REGISTRY, Gater}, {get_workers, unnamed}])),
    Shell = On(First, erlang, whereis, [user]),
    ?assertEqual(ok, On(First, gen_server, call, [{?EVENTS, Gater}, {subscribe, <<"t">>, Shell}])),
    ?assertEqual([Shell], On(Second, gen_server, call, [{?EVENTS, Gater}, {get_subscribers, <<"t">>}])),
    ?assertEqual(ok, On(First, gen_server, call, [{?EVENTS, Gater}, {unsubscribe, <<"t">>, Shell}])),
    true = On(First, erlang, exit, [Worker, kill]),
    gater_harness:until(fun() ->
        On(Second, gen_server, call, [{?REGISTRY, Gater}, {get_workers, unnamed}]) =:= {ok, []} end),
    %% When it comes back, it has a name again.
    true = On(First, erlang, disconnect_node, [Gater]),
    gater_harness:until(fun() -> On(First, net_kernel, connect_node, [Gater]) =:= true end),
    ?assertNotEqual(nonode@nohost, On(First, erlang, node, [])),
    ?assertEqual(pong, On(First, net_adm, ping, [Gater])),
    ?assert(gater_harness:alive(Gateway)),
    [peer:stop(Peer) || Peer <- Peers].

%%% The programs

%% What every program says first; the pid of its worker.
ready(Config, Program) ->
    %% A registration is answered once it is on the disk; what else is asked for does not wait.
    ?assertEqual([<<"published ok">>, <<"received foreign">>, <<"registered ok">>, <<"subscribed ok">>],
                 lists:sort([line(Program) || _ <- lists:seq(1, 4)])),
    [{Node, Pid}] = workers(Config, foreign),
    ?assertEqual([Pid], subscribers(Config)),
    ?assertEqual(Node, gater_harness:on(value(beam, Config), fun() -> node(Pid) end)),
    Pid.

gone(Config) ->
    gater_harness:until(fun() -> workers(Config, foreign) =:= [] end),
    gater_harness:until(fun() -> subscribers(Config) =:= [] end).

java(Config) ->
    Jars = filelib:wildcard("/usr/share/java/OtpErlang.jar")
        ++ filelib:wildcard("/usr/lib/erlang/lib/jinterface-*/priv/OtpErlang.jar"),
    case {os:find_executable("java"), os:find_executable("javac"), Jars} of
        {Java, Javac, [Jar | _]} when is_list(Java), is_list(Javac) ->
            Out = filename:join(value(priv_dir, Config), "java"),
            compile([Javac, " -d ", Out, " -cp ", Jar, " ", source("Worker.java")],
                    filename:join(Out, "Worker.class")),
            %% A node that does not use more of the machine than it needs.
            run(Config, Java, ["-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                               "-cp", Jar ++ ":" ++ Out, "Worker"], "@127.0.0.1");
        _ ->
            {skip, "NO JAVA NODE: it takes java, javac and erlang-jinterface (scripts/setup test)"}
    end.

c(Config) ->
    Root = code:root_dir(),
    Headers = [Dir || Dir <- [filename:join([Root, "usr", "include"])
                              | filelib:wildcard(filename:join([Root, "lib", "erl_interface-*", "include"]))],
                      filelib:is_file(filename:join(Dir, "ei.h"))],
    case {os:find_executable("cc"), Headers} of
        {Cc, [Include | _]} when is_list(Cc) ->
            Libraries = filename:join(filename:dirname(Include), "lib"),
            Program = filename:join(value(priv_dir, Config), "worker"),
            compile([Cc, " -Wall -Werror -o ", Program, " ", source("worker.c"), " -I", Include,
                     " -L", Libraries, " -lei -lpthread"], Program),
            run(Config, Program, [], "");
        _ ->
            {skip, "NO C NODE: it takes cc and erlang-dev with ei.h (scripts/setup test)"}
    end.

source(Name) ->
    filename:join([os:getenv("GATER_ROOT", "."), "tests", "ct", "foreign", Name]).

compile(Command, Result) ->
    ok = filelib:ensure_dir(Result),
    Output = os:cmd(lists:flatten(Command)),
    case filelib:is_file(Result) of
        true -> ok;
        false -> error({not_compiled, Output})
    end.

run(Config, Program, Arguments, Host) ->
    Name = gater_harness:unique("foreign") ++ Host,
    #{node := Gater} = value(gateway, Config),
    Cookie = gater_harness:cookie(value(world, Config)),
    {ok, open_port({spawn_executable, Program},
                   [{args, Arguments ++ [Name, Cookie, atom_to_list(Gater)]},
                    {line, 1000}, binary, exit_status, stderr_to_stdout])}.

line(Program) ->
    receive
        {Program, {data, {eol, Line}}} -> Line;
        {Program, {exit_status, Status}} -> error({program_ended, Status})
    after 60000 -> error(program_says_nothing)
    end.

spaced(Line) -> iolist_to_binary(lists:join(", ", re:split(Line, ", ?"))).

%% The end of its input ends it, if it has not ended.
stop(Program) ->
    catch port_close(Program),
    ok.

%%% Helpers

ask(Config, Pid, Request) ->
    gater_harness:on(value(beam, Config), fun() -> gen_server:call(Pid, Request, 20000) end).

workers(Config, Store) ->
    {ok, Workers} = gater_harness:call(value(beam, Config), {?REGISTRY, value(gateway, Config)},
                                       {get_workers, Store}),
    Workers.

subscribers(Config) ->
    gater_harness:call(value(beam, Config), {?EVENTS, value(gateway, Config)},
                       {get_subscribers, <<"foreign">>}).

closed(Gateway, Pid) ->
    Node = atom_to_binary(node(Pid)),
    [Line || Line <- binary:split(gater_harness:log(Gateway), <<"\n">>, [global]),
             binary:match(Line, Node) =/= nomatch, binary:match(Line, <<"disconnected">>) =/= nomatch].

value(Key, Config) -> proplists:get_value(Key, Config).
