%% @doc A cluster of gateways and the BEAM nodes around it, each of which can be killed, stopped,
%% started again and, on a network of namespaces, cut off.
%%
%% Members are known by their node names, whichever incarnation runs now. The cluster's process
%% owns them; `stop/1' takes everything down.
-module(gater_cluster).

-export([start/1, stop/1, world/1, gateways/1, beams/1, handle/2, log/2, keep_logs/2]).
-export([kill/2, terminate/2, up/2, up_alone/2, pause/2, resume/2, wipe/2, state/2]).
-export([copy_data/2, restore_data/2]).
-export([shape/4, isolate/2, split/3, cut/3, sever/3, mend/1, retire/2]).
-export([add_gateway/2, outsider/1, on/2, on/3, call/4, call/5, status/2, leader/1, settled/1, settle/1,
         command/3]).
-export_type([cluster/0]).

-type cluster() :: pid().
-type state() :: up | down | paused.

%% What a member may need to find its place after whatever happened to it.
-define(SETTLE_MS, 60000).
-define(STATUS_MS, 3000).

%%% Life

%% @doc Starts `gateways' (3) gateways, but for the last `absent' (0), and `beams' (3) nodes. `network' is `loopback' (the default),
%% `namespaces' or `switched', whose links can be shaped; `env' are variables of the gateways, `args' their further arguments, and
%% `modules' are loaded on every node. One gateway alone is started without `--cluster'. With `fake'
%% the gateways are nodes that `gater_nemesis_fake' makes gateways of.
-spec start(map()) -> {ok, cluster()} | {skip, string()}.
start(Options) ->
    case network(Options) of
        {ok, Net} ->
            World = gater_harness:new(),
            Tag = gater_harness:unique(""),
            Cluster = spawn(fun() -> loop(#{world => World, net => Net, members => #{},
                                            tag => Tag, options => Options}) end),
            try
                Names = ask(Cluster, {name_gateways, maps:get(gateways, Options, 3)}),
                Present = lists:sublist(Names, length(Names) - maps:get(absent, Options, 0)),
                [ok = up(Cluster, Name) || Name <- Present],
                [_ = ask(Cluster, add_beam) || _ <- lists:seq(1, maps:get(beams, Options, 3))],
                {ok, Cluster}
            catch
                Class:Reason:Stack -> stop(Cluster), erlang:raise(Class, Reason, Stack)
            end;
        {error, Why} ->
            {skip, "NO PARTITIONS: " ++ Why}
    end.

network(#{network := namespaces} = Options) ->
    %% Gateways that join later need a host as well.
    gater_cluster_net:new(maps:get(gateways, Options, 3) + maps:get(beams, Options, 3)
                          + maps:get(spare, Options, 1));
network(#{network := switched} = Options) ->
    gater_cluster_net:new_switched(maps:get(gateways, Options, 3) + maps:get(beams, Options, 3)
                                   + maps:get(spare, Options, 1));
network(_) ->
    {ok, none}.

%% @doc Ends everything.
-spec stop(cluster()) -> ok.
stop(Cluster) -> ask(Cluster, stop).

%% @doc The world the members live in.
-spec world(cluster()) -> gater_harness:world().
world(Cluster) -> ask(Cluster, world).

%% @doc The names of the gateways, in the order they were started.
-spec gateways(cluster()) -> [node()].
gateways(Cluster) -> ask(Cluster, {members, gateway}).

%% @doc The names of the nodes.
-spec beams(cluster()) -> [node()].
beams(Cluster) -> ask(Cluster, {members, beam}).

%% @doc The running incarnation of a member.
-spec handle(cluster(), node()) -> gater_harness:gateway() | gater_harness:beam().
handle(Cluster, Node) -> ask(Cluster, {handle, Node}).

%% @doc Everything a gateway has logged, in all its incarnations.
-spec log(cluster(), node()) -> binary().
log(Cluster, Node) ->
    {ok, Text} = file:read_file(filename:join(gater_harness:dir(world(Cluster)),
                                              atom_to_list(Node) ++ ".log")),
    Text.

%% @doc Copies what the gateways have logged to a directory.
-spec keep_logs(cluster(), file:filename()) -> ok.
keep_logs(Cluster, Directory) ->
    ok = filelib:ensure_dir(filename:join(Directory, "x")),
    [{ok, _} = file:copy(Log, filename:join(Directory, filename:basename(Log)))
     || Log <- filelib:wildcard(filename:join(gater_harness:dir(world(Cluster)), "*.log"))],
    ok.

%%% What can happen to a member

%% @doc `kill -9'.
-spec kill(cluster(), node()) -> ok.
kill(Cluster, Node) -> ask(Cluster, {kill, Node}).

%% @doc Tells a gateway to stop; its exit code.
-spec terminate(cluster(), node()) -> integer().
terminate(Cluster, Node) -> ask(Cluster, {terminate, Node}).

%% @doc Starts a member that is down, or a gateway that was only named so far.
-spec up(cluster(), node()) -> ok.
up(Cluster, Node) -> ask(Cluster, {up, Node}).

%% @doc Starts a gateway that is down without `--cluster'.
-spec up_alone(cluster(), node()) -> ok.
up_alone(Cluster, Node) -> ask(Cluster, {up_alone, Node}).

%% @doc SIGSTOP.
-spec pause(cluster(), node()) -> ok.
pause(Cluster, Node) -> ask(Cluster, {pause, Node}).

%% @doc SIGCONT.
-spec resume(cluster(), node()) -> ok.
resume(Cluster, Node) -> ask(Cluster, {resume, Node}).

%% @doc Removes the data of a gateway that is down.
-spec wipe(cluster(), node()) -> ok.
wipe(Cluster, Node) -> ask(Cluster, {wipe, Node}).

%% @doc Makes a copy of the data of a gateway, in the place of an earlier one.
-spec copy_data(cluster(), node()) -> ok.
copy_data(Cluster, Node) -> ask(Cluster, {copy_data, Node}).

%% @doc Puts the copy in the place of the data of a gateway that is down.
-spec restore_data(cluster(), node()) -> ok.
restore_data(Cluster, Node) -> ask(Cluster, {restore_data, Node}).

%% @doc What was done to a member last.
-spec state(cluster(), node()) -> state().
state(Cluster, Node) -> ask(Cluster, {state, Node}).

%% @doc From now on what members of the first group send to those of the second goes by links like this.
-spec shape(cluster(), [node()], [node()], gater_cluster_net:shape()) -> ok.
shape(Cluster, From, To, Shape) -> ask(Cluster, {shape, From, To, Shape}).

%% @doc From now on nothing reaches a member and nothing comes from it.
-spec isolate(cluster(), node()) -> ok.
isolate(Cluster, Node) ->
    split(Cluster, [Node], (gateways(Cluster) ++ beams(Cluster)) -- [Node]).

%% @doc From now on nothing goes between two groups.
-spec split(cluster(), [node()], [node()]) -> ok.
split(Cluster, Left, Right) ->
    cut(Cluster, Left, Right),
    cut(Cluster, Right, Left).

%% @doc From now on nothing of one group arrives at another.
-spec cut(cluster(), [node()], [node()]) -> ok.
cut(Cluster, From, To) -> ask(Cluster, {cut, From, To}).

%% @doc Resets the connections between two groups; everybody may connect again at once, unless cut.
-spec sever(cluster(), [node()], [node()]) -> ok.
sever(Cluster, Left, Right) -> ask(Cluster, {sever, Left, Right}).

%% @doc Takes all cuts back.
-spec mend(cluster()) -> ok.
mend(Cluster) -> ask(Cluster, mend).

%% @doc Forgets a gateway that is down: it is of the cluster no more.
-spec retire(cluster(), node()) -> ok.
retire(Cluster, Node) -> ask(Cluster, {retire, Node}).

%%% Talking to it

%% @doc Starts another gateway of this cluster, with `options' as in `gater_harness:gateway/2'. It
%% is told the same `--cluster' as the first, with itself.
-spec add_gateway(cluster(), map()) -> node().
add_gateway(Cluster, Options) -> ask(Cluster, {add_gateway, Options}).

%% @doc Starts a node that is none of those that `beams/1' tells of.
-spec outsider(cluster()) -> node().
outsider(Cluster) -> ask(Cluster, add_outsider).

%% @doc Runs a function on a node.
-spec on(cluster(), node(), fun(() -> Result)) -> Result.
on(Cluster, Beam, Fun) -> gater_harness:on(handle(Cluster, Beam), Fun).

%% @doc As `on/3' on the first node.
-spec on(cluster(), fun(() -> Result)) -> Result.
on(Cluster, Fun) -> on(Cluster, hd(beams(Cluster)), Fun).

%% @doc A call from a node to a registered name of a gateway.
-spec call(cluster(), node(), {atom(), node()}, term()) -> term().
call(Cluster, Beam, To, Request) -> call(Cluster, Beam, To, Request, 20000).

%% @doc As `call/4' with a limit in milliseconds; `{exit, Reason}' where the caller would exit.
-spec call(cluster(), node(), {atom(), node()}, term(), timeout()) -> term().
call(Cluster, Beam, To, Request, Timeout) ->
    on(Cluster, Beam, fun() ->
        try gen_server:call(To, Request, Timeout) catch exit:Reason -> {exit, Reason} end
    end).

%% @doc What a gateway says of the cluster, asked by the first node; `undefined' where it does not.
-spec status(cluster(), node()) -> map() | undefined.
status(Cluster, Gateway) ->
    case call(Cluster, hd(beams(Cluster)), {esdb_gater_cluster, Gateway}, status, ?STATUS_MS) of
        {ok, Status} -> Status;
        _ -> undefined
    end.

%% @doc The leader that most gateways believe in.
-spec leader(cluster()) -> node() | undefined.
leader(Cluster) ->
    Believed = [Leader || Gateway <- gateways(Cluster), state(Cluster, Gateway) =:= up,
                          #{leader := Leader} <- [status(Cluster, Gateway)], Leader =/= undefined],
    Counted = [{length([x || Other <- Believed, Other =:= Leader]), Leader}
               || Leader <- lists:usort(Believed)],
    case lists:reverse(lists:sort(Counted)) of
        [{_, Leader} | _] -> Leader;
        [] -> undefined
    end.

%% @doc Whether all running gateways follow one leader in one term and have applied the same.
-spec settled(cluster()) -> boolean().
settled(Cluster) ->
    Statuses = [status(Cluster, Gateway)
                || Gateway <- gateways(Cluster), state(Cluster, Gateway) =:= up],
    case lists:usort([case Status of
                          #{leader := Leader, term := Term, applied := Applied} -> {Leader, Term, Applied};
                          undefined -> unknown
                      end || Status <- Statuses]) of
        [{Leader, _, _}] -> Leader =/= undefined;
        _ -> false
    end.

%% @doc Waits for `settled/1'.
-spec settle(cluster()) -> ok.
settle(Cluster) -> gater_harness:until(fun() -> settled(Cluster) end, ?SETTLE_MS).

%% @doc `esdb-gater cluster ARGUMENTS' as an operator types it, at a gateway: exit code and output.
-spec command(cluster(), node(), [string()]) -> {integer(), string()}.
command(Cluster, Gateway, Arguments) -> run(ask(Cluster, {command, Gateway, Arguments})).

%%% The process

ask(Cluster, Request) ->
    Monitor = monitor(process, Cluster),
    Cluster ! {self(), Monitor, Request},
    receive
        {Monitor, {done, Answer}} -> demonitor(Monitor, [flush]), Answer;
        {Monitor, {raised, Reason}} -> demonitor(Monitor, [flush]), error(Reason);
        {'DOWN', Monitor, _, _, Reason} -> error({cluster_ended, Reason})
    end.

loop(State) ->
    receive
        {From, Tag, stop} ->
            end_all(State),
            From ! {Tag, {done, ok}};
        {From, Tag, Request} ->
            try serve(Request, State) of
                {Answer, Next} -> From ! {Tag, {done, Answer}}, loop(Next)
            catch
                _:Reason:Stack -> From ! {Tag, {raised, {Request, Reason, Stack}}}, loop(State)
            end
    end.

end_all(#{world := World, net := Net, members := Members}) ->
    %% What is stopped does not end when told to.
    _ = [gater_harness:signal(Handle, "KILL")
         || #{handle := Handle, state := paused} <- maps:values(Members)],
    gater_harness:stop(World),
    case Net of
        none -> ok;
        _ -> gater_cluster_net:delete(Net)
    end.

serve(world, State = #{world := World}) ->
    {World, State};
serve({members, Kind}, State = #{members := Members}) ->
    Sorted = lists:sort([{Number, Node}
                         || {Node, #{kind := Of, number := Number}} <- maps:to_list(Members), Of =:= Kind]),
    {[Node || {_, Node} <- Sorted], State};
serve({handle, Node}, State) ->
    #{handle := Handle} = member(Node, State),
    {Handle, State};
serve({state, Node}, State) ->
    #{state := Last} = member(Node, State),
    {Last, State};
serve({name_gateways, Count}, State0) ->
    {Names, State} = lists:mapfoldl(fun(_, S) -> named(gateway, #{}, S) end, State0, lists:seq(1, Count)),
    %% One gateway is a cluster of its own without being told.
    Founders = case Names of [_] -> []; _ -> Names end,
    {Names, State#{founders => Founders}};
serve({add_gateway, Options}, State0) ->
    {Node, State} = named(gateway, Options, State0),
    {ok, Next} = serve({up, Node}, State),
    {Node, Next};
serve(add_beam, State0) ->
    {Node, State} = named(beam, #{}, State0),
    {ok, Next} = serve({up, Node}, State),
    {Node, Next};
serve(add_outsider, State0) ->
    {Node, State} = named(outsider, #{}, State0),
    {ok, Next} = serve({up, Node}, State),
    {Node, Next};
serve({up, Node}, State) ->
    Member = #{state := down} = member(Node, State),
    {ok, put_member(Node, Member#{handle => launch(Node, Member, State), state := up}, State)};
serve({up_alone, Node}, State) ->
    Member = #{state := down} = member(Node, State),
    {ok, put_member(Node, Member#{handle => launch(Node, Member, State#{founders := []}), state := up}, State)};
serve({kill, Node}, State = #{world := World}) ->
    Member = #{kind := Kind, handle := Handle} = member(Node, State),
    case Kind of
        gateway ->
            gater_harness:signal(Handle, "KILL"),
            137 = gater_harness:await_exit(World, Handle);
        beam ->
            gater_harness:kill_node(World, Handle)
    end,
    {ok, put_member(Node, Member#{state := down}, State)};
serve({terminate, Node}, State = #{world := World}) ->
    Member = #{kind := gateway, handle := Handle, state := up} = member(Node, State),
    gater_harness:signal(Handle, "TERM"),
    Code = gater_harness:await_exit(World, Handle),
    {Code, put_member(Node, Member#{state := down}, State)};
serve({pause, Node}, State) ->
    Member = #{handle := Handle, state := up} = member(Node, State),
    gater_harness:signal(Handle, "STOP"),
    {ok, put_member(Node, Member#{state := paused}, State)};
serve({resume, Node}, State) ->
    Member = #{handle := Handle, state := paused} = member(Node, State),
    gater_harness:signal(Handle, "CONT"),
    {ok, put_member(Node, Member#{state := up}, State)};
serve({wipe, Node}, State = #{world := World}) ->
    #{state := down} = member(Node, State),
    ok = file:del_dir_r(filename:join(gater_harness:dir(World), atom_to_list(Node))),
    {ok, State};
serve({copy_data, Node}, State) ->
    {From, To} = data(Node, State),
    [] = os:cmd(["rm -rf ", To, "; cp -a ", From, " ", To]),
    {ok, State};
serve({restore_data, Node}, State) ->
    #{state := down} = member(Node, State),
    {To, From} = data(Node, State),
    [] = os:cmd(["rm -rf ", To, "; cp -a ", From, " ", To]),
    {ok, State};
serve({cut, From, To}, State = #{net := Net}) ->
    {gater_cluster_net:cut(Net, [{host(A, State), host(B, State)} || A <- From, B <- To]), State};
serve({shape, From, To, Shape}, State = #{net := Net}) ->
    {gater_cluster_net:shape(Net, [{host(A, State), host(B, State), Shape} || A <- From, B <- To, A =/= B]), State};
serve({sever, Left, Right}, State = #{net := Net}) ->
    {gater_cluster_net:sever(Net, [{host(A, State), host(B, State)} || A <- Left, B <- Right]), State};
serve({retire, Node}, State) ->
    Member = #{kind := gateway, state := down} = member(Node, State),
    {ok, put_member(Node, Member#{kind := retired}, State)};
serve(mend, State = #{net := Net}) ->
    {case Net of none -> ok; _ -> gater_cluster_net:mend(Net) end, State};
serve({command, Gateway, Arguments}, State = #{world := World}) ->
    Cookie = filename:join(gater_harness:dir(World), "cookie"),
    {via(member(Gateway, State), State) ++ [gater_harness:program(), "cluster" | Arguments]
     ++ ["--name", atom_to_list(Gateway), "--cookie-file", Cookie], State}.

named(Kind, Options, State = #{members := Members, net := Net, tag := Tag}) ->
    Number = map_size(Members) + 1,
    Short = lists:concat([Kind, length([x || #{kind := Of} <- maps:values(Members), Of =:= Kind]) + 1]),
    {Base, Address} = case Net of
        none -> {Short ++ Tag, "127.0.0.1"};
        _ -> {Short, gater_cluster_net:address(Net, Number)}
    end,
    Node = list_to_atom(Base ++ "@" ++ Address),
    {Node, put_member(Node, #{kind => Kind, number => Number, base => Base, address => Address,
                              options => Options, state => down}, State)}.

launch(_Node, Member = #{kind := gateway, base := Base, address := Address},
       State = #{world := World, options := #{fake := true} = Common}) ->
    gater_harness:node(World, #{
        name => Base, host => Address, modules => [gater_nemesis_fake | maps:get(modules, Common, [])],
        via => via(Member, State)});
launch(Node, Member = #{kind := gateway, address := Address, options := Own},
       State = #{world := World, options := Common, founders := Founders}) ->
    Members = case {Founders, lists:member(Node, Founders)} of
        {[], _} -> [];
        {_, true} -> Founders;
        {_, false} -> Founders ++ [Node]
    end,
    Arguments = ["--listen", Address ++ ":0"] ++
        [Argument || Members =/= [],
                     Argument <- ["--cluster", lists:join(",", [atom_to_list(M) || M <- Members])]] ++
        maps:get(args, Common, []) ++ maps:get(args, Own, []),
    gater_harness:gateway(World, #{
        name => atom_to_list(Node),
        args => [lists:flatten(Argument) || Argument <- Arguments],
        env => maps:get(env, Common, []) ++ maps:get(env, Own, []),
        config => maps:get(config, Common, ""),
        via => via(Member, State)});
launch(_Node, Member = #{kind := Kind, base := Base, address := Address},
       State = #{world := World, options := Common}) when Kind =:= beam; Kind =:= outsider ->
    gater_harness:node(World, #{
        name => Base, host => Address, modules => [?MODULE | maps:get(modules, Common, [])],
        %% The longest that a call to a host out of reach blocks, in seconds.
        args => ["-kernel", "net_setuptime", "2"],
        via => via(Member, State)}).

%% Where the data of a gateway is, and the copy of it.
data(Node, #{world := World}) ->
    Dir = filename:join(gater_harness:dir(World), atom_to_list(Node)),
    {Dir, Dir ++ ".copy"}.

via(_, #{net := none}) -> [];
via(#{number := Number}, #{net := Net}) -> gater_cluster_net:via(Net, Number).

host(Node, State) -> maps:get(number, member(Node, State)).

member(Node, #{members := Members}) -> maps:get(Node, Members).

put_member(Node, Member, State = #{members := Members}) -> State#{members := Members#{Node => Member}}.

run([Program | Arguments]) ->
    Port = open_port({spawn_executable, Program},
                     [{args, Arguments}, exit_status, stderr_to_stdout, use_stdio]),
    output(Port, []).

output(Port, Text) ->
    receive
        {Port, {data, More}} -> output(Port, [Text, More]);
        {Port, {exit_status, Code}} -> {Code, unicode:characters_to_list(lists:flatten(Text))}
    end.
