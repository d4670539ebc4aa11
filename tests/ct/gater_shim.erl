%% @doc The application `erl_esdb_gater' on the nodes of a world.
-module(gater_shim).

-export([node/2, node/3, start/2, embedded/0, embedded/1, named/1, workers/3, echo/0, load/1, collector/0, collected/1,
         program/0]).

%% @doc A node that has the application, not started. `Modules' are loaded there as well.
-spec node(gater_harness:world(), [module()]) -> gater_harness:beam().
node(World, Modules) -> node(World, Modules, #{}).

%% @doc As `node/2' with further options of `gater_harness:node/2'. A node of another release gets
%% the application as that release compiles it.
-spec node(gater_harness:world(), [module()], map()) -> gater_harness:beam().
node(World, Modules, Options) ->
    Application = case maps:get(otp, Options, 25) of
        25 -> filename:join([root(), "_build", "default", "lib", "erl_esdb_gater"]);
        Release -> gater_release:shim(Release)
    end,
    Args = ["-pa", filename:join(Application, "ebin")],
    gater_harness:node(World, Options#{modules => [?MODULE | Modules],
                                       args => Args ++ maps:get(args, Options, [])}).

%% @doc Starts the application on a node.
-spec start(gater_harness:beam(), [{atom(), term()}]) -> ok | {error, term()}.
start(Beam, Env) ->
    gater_harness:on(Beam, fun() ->
        _ = application:load(erl_esdb_gater),
        [application:set_env(erl_esdb_gater, Key, Value) || {Key, Value} <- Env],
        case application:ensure_all_started(erl_esdb_gater) of
            {ok, _} -> ok;
            {error, _} = Error -> Error
        end
    end).

%% @doc Configuration of a node with a gateway of its own.
-spec embedded() -> [{atom(), term()}].
embedded() -> [{program, program()}].

%% @doc As `embedded/0', for a node of any release: in the system of another one the program is in
%% the application's folder.
-spec embedded(gater_harness:beam()) -> [{atom(), term()}].
embedded(#{otp := 25}) -> embedded();
embedded(_) -> [].

%% @doc Configuration of a node that uses running gateways.
-spec named([gater_harness:gateway()]) -> [{atom(), term()}].
named(Gateways) -> [{gateways, [Node || #{node := Node} <- Gateways]}].

%% @doc Starts and registers workers that answer `{echo, T}' with `{ok, {self(), T}}'.
-spec workers(gater_harness:beam(), atom(), non_neg_integer()) -> [pid()].
workers(Beam, Store, N) ->
    gater_harness:on(Beam, fun() ->
        Pids = [spawn(fun echo/0) || _ <- lists:seq(1, N)],
        [ok = esdb_gater_api:register_worker(Store, Pid) || Pid <- Pids],
        Pids
    end).

%% @private
echo() ->
    receive
        {'$gen_call', From, {echo, Term}} -> gen_server:reply(From, {ok, {self(), Term}}), echo();
        {'$gen_call', From, {give, Term}} -> gen_server:reply(From, Term), echo();
        {'$gen_call', _, die} -> exit(killed_by_test);
        {'$gen_call', _, ignore} -> echo();
        {tell, Pid} -> Pid ! {worker, self()}, echo()
    end.

%% @doc Callers of `store' that never stop. Asked by `{report, Pid}' each answers
%% `{Caller, Calls, Failures}' and ends.
-spec load(non_neg_integer()) -> [pid()].
load(N) ->
    [spawn(fun() -> call_on(0, []) end) || _ <- lists:seq(1, N)].

call_on(N, Failures) ->
    receive
        {report, From} -> From ! {self(), N, Failures}
    after 0 ->
        case esdb_gater_api:execute(store, fun(W) -> gen_server:call(W, {echo, N}) end) of
            {ok, {_, N}} -> call_on(N + 1, Failures);
            Other -> call_on(N + 1, [Other | Failures])
        end
    end.

%% @doc A process that keeps what it is sent; see `collected/1'.
-spec collector() -> pid().
collector() -> gater_agent:start().

%% @doc What a collector of this node was sent.
-spec collected(pid()) -> [term()].
collected(Pid) -> gater_agent:messages(Pid).

%% @doc The gateway program.
-spec program() -> file:filename().
program() ->
    case os:getenv("GATER_PROGRAM") of
        Program when is_list(Program), Program =/= "" -> Program;
        _ -> filename:join([root(), "target", "release", "esdb-gater"])
    end.

root() ->
    case os:getenv("GATER_ROOT") of
        Root when is_list(Root), Root =/= "" -> Root;
        _ -> {ok, Dir} = file:get_cwd(), Dir
    end.
