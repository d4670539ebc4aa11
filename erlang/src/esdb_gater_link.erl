%%% @private
%%% @doc The interface of this node's link to a gateway for the rest of the application. The process
%%% behind it is {@link esdb_gater_link_process}. Answers that need no call are read from {@link
%%% esdb_gater_shared_state}.
%%% @end
-module(esdb_gater_link).

-export([register_worker/2, unregister_worker/2, await_mirror/0, await_start/0, out_of_reach/0,
         gateway/0, await_gateway/1, is_hopeless/0,
         gateway_channels/0, follow/1, handlers_changed/0, push_secret/0,
         embedded_up/1, embedded_down/0, connector/1, status/0]).

-define(SERVER, esdb_gater_worker_registry).
-define(TIMEOUT, 5000).                 % ms a caller waits for a gateway
-define(RESTART_MS, 10).                % ms until a crashed link is looked for again

-spec register_worker(term(), term()) -> ok | {error, term()}.
register_worker(StoreId, Pid) ->
    wait({register, StoreId, Pid}).

-spec unregister_worker(term(), term()) -> ok | {error, term()}.
unregister_worker(StoreId, Pid) ->
    call({unregister, StoreId, Pid}).

%% @doc Waits until there has been a gateway since the start.
-spec await_mirror() -> ok | {error, no_gateway}.
await_mirror() ->
    case esdb_gater_shared_state:get(mirror) of
        {ok, ready} -> ok;
        none -> wait({await, mirror, ?TIMEOUT})
    end.

%% @doc Waits until the registry was first received, or until no gateway is within reach: each was
%% tried and failed, the program does not run, or five seconds have passed.
-spec await_start() -> ok | {error, no_gateway}.
await_start() ->
    call({await, start, ?TIMEOUT}).

%% @doc Reports that the program of this node does not run, so that no gateway is to be expected.
-spec out_of_reach() -> ok.
out_of_reach() ->
    gen_server:cast(?SERVER, out_of_reach).

%% @doc Returns the gateway in use.
-spec gateway() -> {ok, node()} | none.
gateway() ->
    esdb_gater_shared_state:get(gateway).

%% @doc Returns the gateway in use, and waits for one if there is none, except in a handler of
%% `logger'.
-spec await_gateway(Milliseconds :: non_neg_integer()) -> {ok, node()} | {error, no_gateway}.
await_gateway(Timeout) ->
    case esdb_gater_shared_state:get(gateway) of
        {ok, _} = Ok -> Ok;
        none ->
            case in_logger() of
                true -> {error, no_gateway};
                false -> wait({await, gateway, Timeout})
            end
    end.

%% A handler of `logger' runs in the process that logs, which must not wait.
in_logger() ->
    {backtrace, Frames} = process_info(self(), backtrace),
    binary:match(Frames, <<"logger_backend:call_handlers">>) =/= nomatch.

%% @doc Returns whether no gateway is to be expected, however long a caller waits: the program of
%% this node cannot be used as it is configured, and there is no gateway of another node.
-spec is_hopeless() -> boolean().
is_hopeless() ->
    esdb_gater_shared_state:get(refused) =/= none andalso esdb_gater_shared_state:get(embedded) =:= none.

%% @doc Returns the channels that the gateway has announced.
-spec gateway_channels() -> #{atom() => map()}.
gateway_channels() ->
    case esdb_gater_shared_state:get(channels) of
        {ok, Channels} -> Channels;
        none -> #{}
    end.

%% @doc Subscribes the process to `{esdb_gater_link, News}', beginning with the present state: `{up,
%% Node}' asks it to restore its state there and then to cast `{restored, Node, self()}' to the
%% link; `down' reports the loss of the gateway; `{former, Node}' asks it to withdraw from a
%% departed gateway that has connected again.
-spec follow(pid()) -> ok.
follow(Pid) ->
    gen_server:cast(?SERVER, {follow, Pid}).

%% @doc Reports that handlers of telemetry events were attached or detached. Returns when the
%% gateway, if there is one, knows which events to send.
-spec handlers_changed() -> ok.
handlers_changed() ->
    case whereis(?SERVER) of
        undefined -> ok;
        Self when Self =:= self() -> gen_server:cast(Self, handlers_changed);
        _ -> _ = call(handlers_changed), ok
    end.

%% @doc Sends the secret of {@link esdb_pubsub_security:get_secret/0} to the gateway, now and
%% whenever another gateway is attached.
-spec push_secret() -> ok.
push_secret() ->
    case whereis(?SERVER) of
        undefined -> ok;
        _ -> _ = call(push_secret), ok
    end.

%% @doc Reports that the embedded gateway is ready.
-spec embedded_up(node()) -> ok.
embedded_up(Node) ->
    gen_server:cast(?SERVER, {embedded_up, Node}).

%% @doc Reports that the embedded gateway has ended.
-spec embedded_down() -> ok.
embedded_down() ->
    gen_server:cast(?SERVER, embedded_down).

%% @doc Starts a process that connects to a node and returns `{connected, Answer}' as its exit
%% reason.
-dialyzer({nowarn_function, connector/1}).   % that the process ends with an exit is its answer
-spec connector(node()) -> {pid(), reference()}.
connector(Node) ->
    spawn_monitor(fun() -> exit({connected, esdb_gater_transport:connect(Node)}) end).

%% @doc Returns the state of the link, its gateway and the registrations of this node, for tests and
%% people.
-spec status() -> map() | {error, no_gateway}.
status() ->
    call(status).

wait(Request) ->
    case is_hopeless() of
        true -> {error, no_gateway};
        false -> call(Request)
    end.

%% The link is restarted when it crashes. A request that met the crash is repeated, since each of
%% them may be made twice.
call(Request) ->
    call(Request, erlang:monotonic_time(millisecond) + 2 * ?TIMEOUT).

call(Request, Deadline) ->
    Left = max(0, Deadline - erlang:monotonic_time(millisecond)),
    try gen_server:call(?SERVER, Request, Left)
    catch
        exit:{Reason, _} when Reason =:= timeout; Reason =:= calling_self ->
            {error, no_gateway};
        exit:_ ->
            case Left > 0 andalso is_running() of
                true -> timer:sleep(?RESTART_MS), call(Request, Deadline);
                false -> {error, no_gateway}
            end
    end.

%% The supervisor has ended with the application, or because it could not keep the link running.
is_running() ->
    whereis(erl_esdb_gater_sup) =/= undefined.
