%%% @private
%%% @doc Runs the gateway program ({@link esdb_gater_program}) on this node when {@link
%%% esdb_gater_embedded} requests it, and restarts it when it ends.
%%%
%%% The program follows this node. It has the same cookie and the same kind of distribution, and is
%%% told when the cookie changes. While this node has no name the program is reached over its pipes
%%% ({@link esdb_gater_pipe}), and it is restarted when that changes. The name of the program stays
%%% the same when it is restarted.
%%%
%%% The program ends when it is told so on its standard input, or when that input ends, so it does
%%% not outlive this process or the node. A program that refuses its configuration (exit code 64)
%%% would do so again; it is not restarted, and callers need not wait.
%%% @end
-module(esdb_gater_port).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/0, run/1, stop/0, kill/0, os_pid/0, pipe_started/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(READY_TIMEOUT, 30000).          % ms from start to the ready line
-define(STOP_TIMEOUT, 10000).           % ms the program may take to drain
-define(BACKOFF_MIN, 50).               % ms, doubles to the maximum
-define(BACKOFF_MAX, 5000).
-define(TELL_AFTER, 3).                 % failures in a row, then another node may try
-define(STEADY, 10000).                 % ms after which a start counts as a success
-define(LOOK, 500).                     % ms between looks at this node's name and cookie
-define(REFUSED, 64).                   % exit code: its configuration cannot be used

-record(state, {
    scope = none :: none | esdb_gater_election:scope(),     % none: it is not to run
    node :: node(),                         % this one, as it was called at the last look
    alive :: string() | undefined,          % its name before the @
    reach :: esdb_gater_transport:kind() | undefined,       % of the program that runs
    port :: port() | undefined,
    os_pid :: non_neg_integer() | undefined,
    ready = false :: boolean(),
    said :: binary() | undefined,           % why it ends, in its own words
    refused = false :: boolean(),           % it is not started again
    cookie = 0 :: non_neg_integer(),        % a hash of the one it was told
    timer :: reference() | undefined,       % to be ready, or to start again
    failures = 0 :: non_neg_integer(),
    since = 0 :: integer(),                 % monotonic ms of the start
    missing_told = false :: boolean()
}).

%% @doc Starts the process, without a program.
-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Starts the program, which listens as `Scope' says. A program that listens on 127.0.0.1 only
%% is restarted for `open'.
-spec run(esdb_gater_election:scope()) -> ok.
run(Scope) ->
    gen_server:cast(?MODULE, {run, Scope}).

%% @doc Asks the process to stop the program, and returns at once.
-spec stop() -> ok.
stop() ->
    gen_server:cast(?MODULE, stop).

%% @doc Kills and restarts the program, which does not respond.
-spec kill() -> ok.
kill() ->
    gen_server:cast(?MODULE, kill).

%% @doc Returns the operating system's process id of the program, for tests and people.
-spec os_pid() -> {ok, non_neg_integer()} | none.
os_pid() ->
    try gen_server:call(?MODULE, os_pid)
    catch exit:_ -> none
    end.

%% @doc Reports that the process of the pipes has restarted, so that the state that a program shared
%% with the previous one is lost.
-spec pipe_started() -> ok.
pipe_started() ->
    gen_server:cast(?MODULE, pipe_started).

-spec init([]) -> {ok, #state{}}.
init([]) ->
    process_flag(trap_exit, true),
    ok = esdb_gater_shared_state:unset(program),
    ok = esdb_gater_shared_state:unset(refused),
    ok = esdb_gater_pipe:shut(),
    ok = esdb_gater_embedded:port_started(),
    _ = erlang:send_after(?LOOK, self(), look),
    {ok, #state{node = node()}}.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}}.
handle_call(os_pid, _From, #state{os_pid = undefined} = State) ->
    {reply, none, State};
handle_call(os_pid, _From, #state{os_pid = OsPid} = State) ->
    {reply, {ok, OsPid}, State};
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({run, Scope}, #state{refused = true} = State) ->
    {noreply, State#state{scope = Scope}};
handle_cast({run, _}, #state{scope = open} = State) ->
    {noreply, State};
handle_cast({run, Scope}, #state{scope = Scope} = State) ->
    {noreply, State};
handle_cast({run, Scope}, #state{scope = none} = State) ->
    {noreply, start(State#state{scope = Scope, failures = 0})};
handle_cast({run, open}, State) ->
    ?LOG_NOTICE("erl_esdb_gater: the embedded gateway is started again, to listen for nodes of other "
                "hosts", [], #{application => erl_esdb_gater}),
    Stopped = end_program(State),
    ok = esdb_gater_embedded:program_down(),
    {noreply, start(Stopped#state{scope = open})};
handle_cast(stop, State) ->
    {noreply, (end_program(State))#state{scope = none}};
handle_cast(pipe_started, #state{reach = piped, os_pid = OsPid} = State) ->
    ok = kill(OsPid),
    {noreply, State};
handle_cast(kill, #state{os_pid = OsPid} = State) ->
    ok = kill(OsPid),
    {noreply, State};
handle_cast(_Message, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({Port, {data, <<"Rready node=", Rest/binary>>}},
            #state{port = Port, ready = false} = State) ->
    [Node | _] = binary:split(Rest, <<" ">>),
    {noreply, serves(binary_to_atom(Node), State)};
handle_info({Port, {data, <<"E", Said/binary>>}}, #state{port = Port} = State) ->
    {noreply, State#state{said = Said}};
handle_info({Port, {data, Frame}}, #state{port = Port, reach = piped} = State) ->
    ok = esdb_gater_pipe:frame(Frame),
    {noreply, State};
handle_info({Port, {data, _}}, #state{port = Port} = State) ->
    {noreply, State};
handle_info({Port, {exit_status, Status}}, #state{port = Port} = State) ->
    {noreply, ended({exit_status, Status}, State)};
handle_info({'EXIT', Port, Reason}, #state{port = Port} = State) ->
    {noreply, ended(Reason, State)};
handle_info({not_ready, Port}, #state{port = Port, ready = false, os_pid = OsPid} = State) ->
    ok = kill(OsPid),
    {noreply, State};
handle_info({timeout, Timer, start}, #state{timer = Timer} = State) ->
    {noreply, start(State#state{timer = undefined})};
handle_info(look, State) ->
    _ = erlang:send_after(?LOOK, self(), look),
    {noreply, follow_cookie(follow_name(State))};
handle_info(_Message, State) ->
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, State) ->
    _ = end_program(State),
    ok.

%%% Starting

start(#state{missing_told = Told} = State) ->
    Config = esdb_gater_config:current(),
    case esdb_gater_program:find(Config) of
        {ok, Program} ->
            reach(Program, Config, State);
        {error, Where} ->
            _ = Told orelse
                ?LOG_ERROR("erl_esdb_gater: there is no gateway: the program esdb-gater is not at "
                           "~tp. Build it (this takes cargo), set the key `program', or name "
                           "running gateways with the key `gateways'", [Where],
                           #{application => erl_esdb_gater}),
            ok = esdb_gater_embedded:program_fails(),
            again(State#state{missing_told = true})
    end.

reach(Program, Config, #state{scope = Scope} = State) ->
    case esdb_gater_transport:kind() of
        piped ->
            launch(Program, piped, Config, State#state{reach = piped});
        distribution ->
            case esdb_gater_distribution:gateway_address(Scope) of
                {ok, Host, Address} ->
                    Alive = alive(State),
                    launch(Program, {Alive ++ "@" ++ Host, Address}, Config,
                           State#state{reach = distribution, alive = Alive});
                {unsupported, Protocol} ->
                    ?LOG_ERROR("erl_esdb_gater: there is no gateway: this node's distribution is "
                               "~ts (-proto_dist), and the embedded gateway speaks inet_tcp and "
                               "inet6_tcp only. Start the node with one of them, or without a "
                               "name", [Protocol], #{application => erl_esdb_gater}),
                    give_up(State)
            end
    end.

launch(Program, Reach, Config, State) ->
    Cookie = cookie_hash(),
    case esdb_gater_program:open(Program, Reach, Config) of
        {ok, Port} ->
            OsPid = case erlang:port_info(Port, os_pid) of
                        {os_pid, Id} -> Id;
                        undefined -> undefined        % it has ended already
                    end,
            Timer = erlang:send_after(?READY_TIMEOUT, self(), {not_ready, Port}),
            State#state{port = Port, os_pid = OsPid, ready = false, said = undefined,
                        cookie = Cookie, timer = Timer, since = now_ms()};
        {error, Reason} ->
            ?LOG_ERROR("erl_esdb_gater: ~ts does not start: ~tp", [Program, Reason],
                       #{application => erl_esdb_gater}),
            again(State)
    end.

alive(#state{alive = undefined}) ->
    lists:concat(["esdb_gater_", os:getpid(), "_", random()]);
alive(#state{alive = Alive}) ->
    Alive.

%%% Following this node

%% The node was given a name or has lost it, so everything that is known of gateways is invalid.
follow_name(#state{node = Node} = State) when Node =:= node() ->
    State;
follow_name(State) ->
    ?LOG_NOTICE("erl_esdb_gater: this node is called ~ts now; the embedded gateway is started "
                "again", [node()], #{application => erl_esdb_gater}),
    Stopped = end_program(State),
    ok = esdb_gater_shared_state:unset(refused),
    ok = esdb_gater_embedded:renamed(),
    Stopped#state{node = node(), scope = none, refused = false, failures = 0}.

follow_cookie(#state{reach = distribution, ready = true, port = Port, cookie = Told} = State) ->
    case cookie_hash() of
        Told ->
            State;
        Other ->
            ok = esdb_gater_program:tell_cookie(Port),
            State#state{cookie = Other}
    end;
follow_cookie(State) ->
    State.

%% The cookie itself would be visible in the state of this process.
cookie_hash() ->
    erlang:phash2(erlang:get_cookie()).

%%% The life of the program

serves(Node, #state{timer = Timer, reach = Reach, port = Port} = State) ->
    cancel(Timer),
    ?LOG_INFO("erl_esdb_gater: the embedded gateway ~ts serves", [Node],
              #{application => erl_esdb_gater}),
    _ = Reach =:= piped andalso esdb_gater_pipe:open(Port),
    ok = esdb_gater_shared_state:set(program, Node),
    ok = esdb_gater_embedded:program_up(Node),
    State#state{ready = true, timer = undefined}.

ended({exit_status, ?REFUSED}, #state{said = Said} = State) ->
    ?LOG_ERROR("erl_esdb_gater: there is no gateway: esdb-gater refuses what it is told (exit "
               "code 64) and is not started again: ~ts", [said(Said)],
               #{application => erl_esdb_gater}),
    give_up(gone(State));
ended(Reason, #state{said = Said, since = Since, failures = Failures} = State) ->
    ?LOG_WARNING("erl_esdb_gater: the embedded gateway has ended (~tp) and is started again: ~ts",
                 [Reason, said(Said)], #{application => erl_esdb_gater}),
    Counted = case now_ms() - Since > ?STEADY of
                  true -> 0;
                  false -> Failures
              end,
    again((gone(State))#state{failures = Counted}).

said(undefined) -> "it has not said why";
said(Said) -> Said.

gone(#state{port = Port, timer = Timer} = State) ->
    ok = esdb_gater_shared_state:unset(program),
    ok = esdb_gater_pipe:shut(),
    ok = esdb_gater_embedded:program_down(),
    ok = esdb_gater_program:close(Port),
    cancel(Timer),
    State#state{port = undefined, os_pid = undefined, ready = false, timer = undefined}.

%% Another attempt would fail as well.
give_up(State) ->
    ok = esdb_gater_shared_state:set(refused, true),
    ok = esdb_gater_embedded:program_fails(),
    State#state{refused = true}.

again(#state{failures = Failures} = State) ->
    Pause = min(?BACKOFF_MAX, ?BACKOFF_MIN bsl min(Failures, 16)),
    _ = Failures >= ?TELL_AFTER andalso esdb_gater_embedded:program_fails(),
    State#state{failures = Failures + 1, timer = erlang:start_timer(Pause, self(), start)}.

end_program(#state{port = Port, os_pid = OsPid, timer = Timer} = State) ->
    ok = esdb_gater_shared_state:unset(program),
    cancel(Timer),
    ok = stop_program(Port, OsPid),
    ok = esdb_gater_pipe:shut(),
    State#state{port = undefined, os_pid = undefined, ready = false, timer = undefined}.

stop_program(undefined, _OsPid) ->
    ok;
stop_program(Port, OsPid) ->
    ok = esdb_gater_program:stop(Port),
    Deadline = now_ms() + ?STOP_TIMEOUT,
    case await_end(Port, Deadline) of
        ok ->
            ok;
        timeout ->
            ?LOG_WARNING("erl_esdb_gater: the embedded gateway does not end and is killed", [],
                         #{application => erl_esdb_gater}),
            kill(OsPid)
    end,
    esdb_gater_program:close(Port).

%% The last frames of the program are still handled before its end.
await_end(Port, Deadline) ->
    receive
        {Port, {exit_status, _}} -> ok;
        {'EXIT', Port, _} -> ok;
        {Port, {data, Frame}} -> ok = esdb_gater_pipe:frame(Frame), await_end(Port, Deadline)
    after max(0, Deadline - now_ms()) ->
        timeout
    end.

kill(undefined) ->
    ok;
kill(OsPid) ->
    _ = os:cmd("kill -9 " ++ integer_to_list(OsPid)),
    ok.

cancel(undefined) ->
    ok;
cancel(Timer) ->
    _ = erlang:cancel_timer(Timer),
    ok.

now_ms() ->
    erlang:monotonic_time(millisecond).

random() ->
    string:lowercase(integer_to_list(rand:uniform(1 bsl 40), 36)).
