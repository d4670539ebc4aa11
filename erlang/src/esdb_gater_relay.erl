%%% @private
%%% @doc The relay of one channel on this node, registered under the channel's name.
%%%
%%% It subscribes once per topic at the gateway, however many processes of this node want the
%%% topic, and hands out what arrives; so one copy of a message crosses the wire per node. To
%%% the gateway it is a subscriber like any other. A process of a node that runs no relay is
%%% subscribed at the gateway under its own pid, and kept so by this relay.
%%%
%%% A *subscription* is a topic with its target, the pid the gateway sends to: this relay or a
%%% process elsewhere. It is `wanted' (to be made when there is a gateway), `asked' or `held'.
%%% When the gateway is lost every subscription is wanted again. A caller is answered when its
%%% subscription is held, or `{error, no_gateway}' after five seconds.
%%%
%%% A process that subscribes with a capability token is subscribed under its own pid as well: the
%%% token is its own, and who has none is not to get what another one is granted.
%%%
%%% The gateway knows that this relay keeps its subscriptions, and tells it when somebody else ends
%%% one of them, at once or when the relay is back. Stamps say what is newer: the gateway gives one
%%% with each answer, each subscriber has the latest that was known when it subscribed, and an
%%% ending counts for those with an earlier one.
%%%
%%% On a channel that replays, as the gateway says with each answer, the relay remembers the last
%%% message of each topic it holds and gives it to processes that subscribe later: the gateway sees
%%% only the first of them.
%%%
%%% `{{Channel, Topic, Pid}, Stamp}' of all subscribers is kept in a table that outlives the process,
%%% so a crash costs what arrives meanwhile and no subscription.
%%% @end
-module(esdb_gater_relay).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/1, find/1, channels/0, tables/0, topics/0, foreach_local/3]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(LINK, esdb_gater_worker_registry).
-define(TABLE, esdb_gater_subscribers).
-define(TOKENS, esdb_gater_subscription_tokens).
-define(RELAYS, esdb_gater_relays).
-define(CALL_TIMEOUT, 5000).            % ms a caller waits for a gateway
-define(RETRY, 1000).                   % ms until a refused subscription is asked for again
-define(FOLLOW, 50).                    % ms until a lost link is looked for again
-define(LOOK_AGAIN, 5000).              % ms until an unreachable subscriber is looked for again
-define(AT_ONCE, 64).                   % messages that are handed out together
-define(WITHDRAWN, 10000).             % endings that are remembered while there is no gateway
-define(LOOKS, 12).                     % after so many, a minute as at the gateway, it is gone

-type key() :: {Topic :: binary(), Target :: pid()}.
-type stamp() :: non_neg_integer().     % 0: newer than any that is known

-record(sub, {
    status = wanted :: wanted | asked | held,
    token = none :: none | binary(),        % the gateway is shown it
    former = none :: none | {held, none | binary()},    % it is held with this token still
    known = false :: boolean(),             % it was asked for: a gateway may have it
    pids = #{} :: #{pid() => stamp()},      % who it is for, and since when
    waiting = [] :: [{pid(), gen_server:from(), Timer :: reference()}],
    last = none :: none | {last, term()}    % only where the channel replays
}).

-record(state, {
    channel :: atom(),
    starting = false :: boolean(),          % publishers of this node see what was before
    replays = false :: boolean(),           % the gateway says so
    stamp = 0 :: stamp(),                   % the latest that is known
    link :: reference() | undefined,        % monitor of the link
    gateway :: node() | undefined,
    requests :: gen_server:request_id_collection(),
    restoring = none :: none | #{key() => []},  % asked for since the gateway came, unanswered
    subs = #{} :: #{key() => #sub{}},
    %% Given up while no gateway could be told; what a caller ends there is to be ended for all.
    withdrawn = #{} :: #{key() => leave | unsubscribe},
    ending = #{} :: #{reference() => {key(), gen_server:from()}},   % callers that wait for it
    watched = #{} :: #{pid() => {reference(), #{key() => []}}},
    sought = #{} :: #{node() => #{pid() => reference()}}    % at nodes that are being connected to
}).

%% @doc Starts the relay of a channel.
-spec start_link(Channel :: atom()) -> {ok, pid()} | {error, term()}.
start_link(Channel) ->
    gen_server:start_link({local, Channel}, ?MODULE, Channel, []).

%% @doc The relay of a channel on this node. The process that has the channel's name may be
%% another one.
-spec find(Channel :: atom()) -> {ok, pid()} | none.
find(Channel) ->
    try ets:lookup(?RELAYS, Channel) of
        [{_, Relay}] ->
            case is_process_alive(Relay) of
                true -> {ok, Relay};
                false -> none
            end;
        [] ->
            none
    catch
        error:badarg -> none                       % the application is not running
    end.

%% @doc The channels that processes of this node have subscribed to.
-spec channels() -> [atom()].
channels() ->
    lists:usort(ets:select(?TABLE, [{{{'$1', '_', '_'}, '_'}, [], ['$1']}])).

%% @doc The tables to make, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?TABLE, [ordered_set, public, named_table]},
     {?TOKENS, [set, public, named_table]},
     {?RELAYS, [set, public, named_table, {read_concurrency, true}]}].

%% @doc The topics that have subscribers on this node.
-spec topics() -> [{Channel :: atom(), Topic :: binary()}].
topics() ->
    lists:usort([{Channel, Topic} || {{Channel, Topic, Pid}} <- ets:tab2list(?TABLE),
                                     node(Pid) =:= node()]).

%% @doc Calls a function with each process that the relay hands out a topic to.
-spec foreach_local(Channel :: atom(), Topic :: binary(), fun((pid()) -> term())) -> ok.
foreach_local(Channel, Topic, Fun) ->
    next_local(ets:next(?TABLE, {Channel, Topic, 0}), Channel, Topic, Fun).

next_local({Channel, Topic, Pid} = Key, Channel, Topic, Fun) ->
    _ = node(Pid) =:= node() andalso not ets:member(?TOKENS, Key) andalso Fun(Pid),
    next_local(ets:next(?TABLE, Key), Channel, Topic, Fun);
next_local(_, _Channel, _Topic, _Fun) ->
    ok.

%%% The process

-spec init(atom()) -> {ok, #state{}}.
init(Channel) ->
    true = ets:insert(?RELAYS, {Channel, self()}),
    {Exactly, Guards} = esdb_gater_match:exactly(Channel, '$4'),
    Kept = ets:select(?TABLE, [{{{Exactly, '$1', '$2'}, '$3'}, Guards, [{{'$1', '$2', '$3'}}]}]),
    State = lists:foldl(fun({Topic, Pid, Stamp}, Acc) ->
                            kept(Topic, Pid, Stamp, learn(Stamp, Acc))
                        end, #state{channel = Channel, requests = gen_server:reqids_new(),
                                    starting = true}, Kept),
    %% Before a crash it may have asked for them.
    Known = maps:map(fun(_, Sub) -> Sub#sub{known = true} end, State#state.subs),
    Topics = maps:from_list([{Topic, Pids} || {{Topic, Target}, #sub{pids = Pids}} <- maps:to_list(Known),
                                              Target =:= self()]),
    ok = esdb_gater_local:kept(Channel, Topics),
    maps:foreach(fun(Topic, Pids) -> ok = esdb_gater_local:changed(Channel, Topic, Pids) end, Topics),
    {ok, follow(State#state{subs = Known, starting = false})}.

kept(Topic, Pid, Stamp, #state{channel = Channel, subs = Subs} = State) ->
    case ets:lookup(?TOKENS, {Channel, Topic, Pid}) of
        [{_, Token}] ->
            Key = {Topic, Pid},
            added(Key, Pid, Stamp, State#state{subs = Subs#{Key => #sub{token = Token}}});
        [] ->
            added(key(Topic, Pid), Pid, Stamp, State)
    end.

-spec handle_call(term(), gen_server:from(), #state{}) ->
          {reply, term(), #state{}} | {noreply, #state{}}.
handle_call({subscribe, Topic, Pid}, From, State) when is_pid(Pid) ->
    case esdb_gater_bounds:topic(Topic) of
        ok -> subscribe(Topic, Pid, From, State);
        {error, _} = Error -> {reply, Error, State}
    end;
handle_call({subscribe, Topic, Pid, Token}, From, State) when is_pid(Pid), is_binary(Token) ->
    case esdb_gater_bounds:topic(Topic) of
        ok -> subscribe_with(Token, Topic, Pid, From, State);
        {error, _} = Error -> {reply, Error, State}
    end;
handle_call(Subscribe, _From, State) when element(1, Subscribe) =:= subscribe ->
    {reply, {error, badarg}, State};
handle_call({unsubscribe, Topic, Pid}, From, State) when is_pid(Pid) ->
    case esdb_gater_bounds:topic(Topic) of
        ok -> {noreply, unsubscribe(Topic, Pid, From, State)};
        {error, _} = Error -> {reply, Error, State}
    end;
handle_call({unsubscribe, _, _}, _From, State) ->
    {reply, {error, badarg}, State};
handle_call(Publish, _From, #state{gateway = undefined} = State)
  when element(1, Publish) =:= publish ->
    {reply, {error, no_gateway}, State};
handle_call(Publish, From, State)
  when element(1, Publish) =:= publish, tuple_size(Publish) >= 3, tuple_size(Publish) =< 4 ->
    case esdb_gater_bounds:publish(Publish) of
        ok -> {noreply, pass(Publish, From, State)};
        {error, _} = Error -> {reply, Error, State}
    end;
handle_call({get_local_subscribers, Topic}, _From, State) ->
    {reply, {self(), local_subscribers(Topic, State)}, State};
handle_call({get_subscribers, Topic}, _From, State) ->
    {reply, local_subscribers(Topic, State), State};
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({subscribe, Topic, Pid}, State) when is_pid(Pid) ->
    case esdb_gater_bounds:topic(Topic) of
        ok -> {noreply, ask(key(Topic, Pid), added(key(Topic, Pid), Pid, 0, State))};
        {error, _} -> {noreply, State}
    end;
handle_cast({unsubscribe, Topic, Pid}, State) when is_pid(Pid) ->
    case esdb_gater_bounds:topic(Topic) of
        ok -> {noreply, unsubscribe(Topic, Pid, none, State)};
        {error, _} -> {noreply, State}
    end;
handle_cast(Publish, #state{channel = Channel, gateway = Node} = State)
  when element(1, Publish) =:= publish, tuple_size(Publish) >= 3, tuple_size(Publish) =< 4,
       Node =/= undefined ->
    case esdb_gater_bounds:publish(Publish) of
        ok ->
            {Named, Local} = named(Publish, State),
            gen_server:cast(esdb_gater_transport:address(Channel, Node), Named),
            ok = publish_here(Local, Publish, State);
        {error, _} ->
            ok
    end,
    {noreply, State};
handle_cast(_Message, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({channel_message, Channel, _, _} = Message, #state{channel = Channel} = State) ->
    {noreply, hand_out([Message | more(Channel, ?AT_ONCE - 1)], State)};
handle_info({esdb_gater_ended, Topic, Pid, Stamp}, State)
  when is_binary(Topic), is_pid(Pid), is_integer(Stamp) ->
    {noreply, ended(key(Topic, Pid, State), Pid, Stamp, learn(Stamp, State))};
handle_info({esdb_gater_link, {up, Node}}, State) ->
    Down = #state{subs = Subs} = withdraw(gone_down(State, Node)),
    Asked = ask_all(Down),
    {noreply, maybe_restored(Asked#state{restoring = maps:map(fun(_, _) -> [] end, Subs)})};
handle_info({esdb_gater_link, {former, Node}}, #state{channel = Channel, subs = Subs} = State) ->
    lists:foreach(fun({Topic, Target}) ->
                      gen_server:cast(esdb_gater_transport:address(Channel, Node),
                                      {forget, Topic, Target, self()})
                  end, maps:keys(Subs)),
    {noreply, State};
handle_info({esdb_gater_link, down}, State) ->
    {noreply, gone_down(State, undefined)};
handle_info({'DOWN', Ref, process, _, _}, #state{link = Ref} = State) ->
    {noreply, follow(gone_down(State, undefined))};
handle_info({'DOWN', Ref, process, Pid, Reason} = Message, #state{watched = Watched} = State) ->
    case Watched of
        #{Pid := {Ref, _}} when Reason =:= noconnection ->
            ok = look_later(Pid, Ref, ?LOOKS - 1),
            {noreply, State};
        #{Pid := {Ref, _}} ->
            {noreply, process_gone(Pid, State)};
        _ ->
            {noreply, maybe_response(Message, State)}
    end;
handle_info({look_again, Pid, Ref, Looks}, #state{watched = Watched} = State) ->
    case Watched of
        #{Pid := {Ref, _}} -> {noreply, look_again(Pid, Ref, Looks, State)};
        _ -> {noreply, State}
    end;
handle_info({connected, Node, Answer}, #state{sought = Sought} = State) ->
    Pids = maps:get(Node, Sought, #{}),
    {noreply, found(Answer, Pids, State#state{sought = maps:remove(Node, Sought)})};
handle_info(follow, State) ->
    {noreply, follow(State)};
handle_info(ask_all, State) ->
    {noreply, ask_all(State)};
handle_info({expire, Key, From}, State) ->
    {noreply, expire(Key, From, State)};
handle_info(Message, State) ->
    {noreply, maybe_response(Message, State)}.

%%% The link

follow(State) ->
    case whereis(?LINK) of
        undefined ->
            _ = erlang:send_after(?FOLLOW, self(), follow),
            State#state{link = undefined};
        Pid ->
            Ref = erlang:monitor(process, Pid),
            ok = esdb_gater_link:follow(self()),
            State#state{link = Ref}
    end.

%% Whatever was asked or held is wanted again from the next gateway. Those who wait for the end
%% of a subscription need not: it is remembered.
gone_down(#state{subs = Subs, ending = Ending} = State, Next) ->
    Wanted = maps:map(fun(_, Sub) -> Sub#sub{status = wanted, former = none} end, Subs),
    Down = State#state{gateway = Next, requests = gen_server:reqids_new(), restoring = none,
                       subs = Wanted, ending = #{}},
    maps:fold(fun(_, {Key, From}, Acc) -> withdrawn(Key, From, Acc) end, Down, Ending).

%% A gateway that was only out of reach still has what was given up meanwhile.
withdraw(#state{subs = Subs, withdrawn = Withdrawn} = State) ->
    maps:fold(fun(Key, How, Acc) -> request_end(How, Key, {ended, Key}, Acc) end,
              State#state{withdrawn = #{}}, maps:without(maps:keys(Subs), Withdrawn)).

%% The link waits for this before it lets others use the gateway.
maybe_restored(#state{restoring = Left, gateway = Node} = State)
  when is_map(Left), map_size(Left) =:= 0 ->
    gen_server:cast(?LINK, {restored, Node, self()}),
    State#state{restoring = none};
maybe_restored(State) ->
    State.

restored(_Key, #state{restoring = none} = State) -> State;
restored(Key, #state{restoring = Left} = State) ->
    maybe_restored(State#state{restoring = maps:remove(Key, Left)}).

%%% Subscribing

key(Topic, Pid) when node(Pid) =:= node() -> {Topic, self()};
key(Topic, Pid) -> {Topic, Pid}.

%% The subscription of a process that has, or may have, one of its own.
key(Topic, Pid, #state{subs = Subs}) when is_map_key({Topic, Pid}, Subs) -> {Topic, Pid};
key(Topic, Pid, _State) -> key(Topic, Pid).

subscribe(Topic, Pid, From, State) ->
    subscribe(key(Topic, Pid, State), Topic, Pid, From, State).

%% A process that needed no token stays subscribed as it is; it must not get messages twice.
subscribe_with(Token, Topic, Pid, From, #state{subs = Subs} = State) ->
    Shared = {Topic, self()},
    case Subs of
        #{Shared := #sub{status = held, pids = #{Pid := _}}} ->
            {reply, ok, State};
        #{Shared := #sub{pids = #{Pid := _}}} ->
            Alone = unwatch(Pid, Shared, removed(Shared, Pid, State)),
            subscribe_alone(Token, {Topic, Pid}, From, Alone);
        _ ->
            subscribe_alone(Token, {Topic, Pid}, From, State)
    end.

%% One that is held is asked for again, so that the new token is judged.
subscribe_alone(Token, {Topic, Pid} = Key, From, #state{subs = Subs} = State) ->
    Sub = case maps:get(Key, Subs, #sub{}) of
              #sub{status = held, token = Other} = Held ->
                  Held#sub{status = wanted, token = Token, former = {held, Other}};
              Asked ->
                  Asked#sub{token = Token}
          end,
    subscribe(Key, Topic, Pid, From, State#state{subs = Subs#{Key => Sub}}).

subscribe(Key, Topic, Pid, From, #state{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{status = held, last = Last, pids = Pids}} ->
            Added = added(Key, Pid, State#state.stamp, State),
            gen_server:reply(From, ok),
            ok = replay(Last, Topic, Pid, is_map_key(Pid, Pids), State),
            {noreply, Added};
        _ ->
            subscribe_waiting(esdb_gater_link:is_hopeless(), Key, Pid, From, State)
    end.

subscribe_waiting(true, _Key, _Pid, _From, State) ->
    {reply, {error, no_gateway}, State};
subscribe_waiting(false, Key, Pid, From, #state{subs = Subs} = State) ->
    Sub = maps:get(Key, Subs, #sub{}),
    Timer = erlang:send_after(?CALL_TIMEOUT, self(), {expire, Key, From}),
    Waiting = [{Pid, From, Timer} | Sub#sub.waiting],
    {noreply, ask(Key, put_sub(Key, Sub#sub{waiting = Waiting}, State))}.

replay({last, Message}, Topic, Pid, false, #state{channel = Channel, replays = true}) ->
    _ = Pid ! {channel_message, Channel, Topic, Message},
    ok;
replay(_, _Topic, _Pid, _Subscribed, _State) ->
    ok.

%% The process is a subscriber from now on.
added({Topic, Target} = Key, Pid, Stamp, #state{channel = Channel, subs = Subs} = State) ->
    #sub{pids = Pids} = Sub = maps:get(Key, Subs, #sub{}),
    true = ets:insert(?TABLE, {{Channel, Topic, Pid}, Stamp}),
    _ = Sub#sub.token =/= none andalso
        ets:insert(?TOKENS, {{Channel, Topic, Pid}, Sub#sub.token}),
    ok = esdb_gater_lineage:topic_changed(Target, Topic, true),
    More = Pids#{Pid => Stamp},
    Added = put_sub(Key, Sub#sub{pids = More}, State),
    ok = local_changed(Key, Pids, More, State),
    ok = weigh(Key, Sub#sub.status, map_size(Pids), map_size(More), Added),
    watch(Pid, Key, Added).

%% Publishers of this node send to them directly.
local_changed({Topic, Target}, Before, Now, #state{channel = Channel, starting = false})
  when Target =:= self(), map_size(Before) =/= map_size(Now) ->
    esdb_gater_local:changed(Channel, Topic, Now);
local_changed(_Key, _Before, _Now, _State) ->
    ok.

%% How many processes it hands out a topic to, for those who count the recipients of a publication.
%% One is what the gateway takes it to be.
weigh(_Key, _Status, Same, Same, _State) -> ok;
weigh(_Key, _Status, 0, 1, _State) -> ok;
weigh(_Key, _Status, _Before, 0, _State) -> ok;
weigh({Topic, Target}, held, _Before, Now, #state{channel = Channel, gateway = Node})
  when Target =:= self(), Node =/= undefined ->
    gen_server:cast(esdb_gater_transport:address(Channel, Node),
                    {weigh, Topic, self(), Now});
weigh(_Key, _Status, _Before, _Now, _State) ->
    ok.

learn(Stamp, #state{stamp = Latest} = State) ->
    State#state{stamp = max(Stamp, Latest)}.

put_sub(Key, #sub{pids = Pids, waiting = []} = Sub, State) when map_size(Pids) =:= 0 ->
    given_up(Key, Sub, State);
put_sub(Key, Sub, #state{subs = Subs} = State) ->
    State#state{subs = Subs#{Key => Sub}}.

%% Nobody wants it any more. Requests of this process stay in order, so it may be asked for
%% again at once.
given_up(Key, #sub{known = Known}, #state{subs = Subs} = State) ->
    Fewer = State#state{subs = maps:remove(Key, Subs)},
    case Known of
        true -> restored(Key, request_end(leave, Key, {ended, Key}, Fewer));
        false -> Fewer
    end.

%% Whoever was not told of the end goes on sending, if only to a process that has unsubscribed.
%% What no gateway was asked for is not remembered, so without one there are at most as many
%% `withdrawn' as it had subscriptions, whatever comes and goes meanwhile.
request_end(How, Key, _Label, #state{gateway = undefined, withdrawn = Withdrawn} = State) ->
    State#state{withdrawn = Withdrawn#{Key => How}};
request_end(leave, {Topic, Target}, Label, State) ->
    request({leave, Topic, Target, self()}, Label, State);
request_end(unsubscribe, {Topic, Target}, Label, State) ->
    request({unsubscribe, Topic, Target}, Label, State).

ask(_Key, #state{gateway = undefined} = State) ->
    State;
ask({Topic, Target} = Key, #state{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{status = wanted} = Sub} ->
            request(keep(Topic, Target, since(Target, Sub, State), Sub), {subscribed, Key},
                    State#state{subs = Subs#{Key := Sub#sub{status = asked, known = true}}});
        _ ->
            State
    end.

keep(Topic, Target, Since, #sub{token = none}) -> {keep, Topic, Target, self(), Since};
keep(Topic, Target, Since, #sub{token = Token}) -> {keep, Topic, Target, self(), Since, Token}.

%% Who waits subscribes now; what nobody waits for was subscribed before.
since(Target, _Sub, #state{stamp = Stamp}) when Target =:= self() -> Stamp;
since(_Target, #sub{waiting = [_ | _]}, _State) -> 0;
since(Target, #sub{pids = Pids}, _State) -> maps:get(Target, Pids, 0).

ask_all(#state{subs = Subs} = State) ->
    lists:foldl(fun ask/2, State, maps:keys(Subs)).

subscribed({_, Target} = Key, Answer, #state{subs = Subs} = State) ->
    case {Subs, Answer} of
        {#{Key := #sub{status = asked} = Sub}, {ok, Stamp, Replays}} ->
            Held = Sub#sub{status = held, waiting = [], former = none},
            Learnt = learn(Stamp, State#state{replays = Replays, subs = Subs#{Key := Held}}),
            ok = weigh(Key, held, 1, map_size(Sub#sub.pids), Learnt),
            answer_all(Key, Sub#sub.waiting, ok, Stamp, dated(Key, Stamp, Learnt));
        {#{Key := #sub{status = asked, waiting = [], pids = #{Target := Since}}}, {error, ended}}
          when Since > 0 ->
            dropped(Key, Target, State);
        {#{Key := #sub{status = asked} = Sub}, {error, ended}} ->
            %% One that was ended while it was under way; this one is newer.
            ask(Key, State#state{subs = Subs#{Key := Sub#sub{status = wanted}}});
        {#{Key := #sub{status = asked, former = {held, Former}} = Sub},
         {error, {unauthorized, _}}} ->
            Held = Sub#sub{status = held, token = Former, former = none, waiting = []},
            answer_all(Key, Sub#sub.waiting, Answer, 0, State#state{subs = Subs#{Key := Held}});
        {#{Key := #sub{status = asked, token = Token, pids = Pids} = Sub},
         {error, {unauthorized, Reason}}} when Token =/= none, map_size(Pids) > 0 ->
            Ended = State#state{subs = Subs#{Key := Sub#sub{waiting = []}}},
            not_restored(Key, Reason, answer_all(Key, Sub#sub.waiting, Answer, 0, Ended));
        {#{Key := #sub{status = asked} = Sub}, _} ->
            Wanted = State#state{subs = Subs#{Key := Sub#sub{status = wanted, waiting = []}}},
            refused(Key, answer_all(Key, Sub#sub.waiting, Answer, 0, Wanted));
        _ ->
            State
    end.

%% The token was good when the process subscribed, and is not any more.
not_restored({Topic, Pid} = Key, Reason, #state{channel = Channel} = State) ->
    ?LOG_WARNING("erl_esdb_gater: the subscription of ~tp to ~tp on ~ts has ended: its gateway was "
                 "lost, and the next one refuses its capability token (~ts); subscribe it again "
                 "with a new token", [Pid, Topic, Channel, Reason],
                 #{application => erl_esdb_gater}),
    dropped(Key, Pid, State).

answer_all(Key, Waiting, Answer, Stamp, State) ->
    lists:foldr(fun(Waiter, Acc) -> answer(Key, Waiter, Answer, Stamp, Acc) end, State, Waiting).

answer(Key, {Pid, From, Timer}, Answer, Stamp, State) ->
    _ = erlang:cancel_timer(Timer),
    %% Who is told `ok' is sent what is published from then on.
    Next = case Answer of
               ok -> added(Key, Pid, Stamp, State);
               _ -> State
           end,
    gen_server:reply(From, Answer),
    Next.

%% Those that were subscribed without waiting for the answer.
dated(Key, Stamp, #state{subs = Subs} = State) ->
    #{Key := #sub{pids = Pids}} = Subs,
    lists:foldl(fun(Pid, Acc) -> added(Key, Pid, Stamp, Acc) end, State,
                [Pid || {Pid, 0} <- maps:to_list(Pids)]).

refused(Key, #state{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{pids = Pids}} when map_size(Pids) =:= 0 ->
            State#state{subs = maps:remove(Key, Subs)};
        _ ->
            _ = erlang:send_after(?RETRY, self(), ask_all),
            State
    end.

expire(Key, From, #state{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{waiting = Waiting} = Sub} ->
            {Expired, Others} = lists:partition(fun({_, F, _}) -> F =:= From end, Waiting),
            lists:foreach(fun(_) -> gen_server:reply(From, {error, no_gateway}) end, Expired),
            put_sub(Key, Sub#sub{waiting = Others}, State);
        _ ->
            State
    end.

%%% Unsubscribing

%% Somebody else may have subscribed the process, too, so the gateway is told in any case: who is
%% told `ok' finds it ended.
unsubscribe(Topic, Pid, From, State) when node(Pid) =:= node() ->
    Key = key(Topic, Pid, State),
    end_at_gateway(leave, {Topic, Pid}, From, unwatch(Pid, Key, removed(Key, Pid, State)));
unsubscribe(Topic, Pid, From, State) ->
    Key = key(Topic, Pid),
    end_at_gateway(unsubscribe, Key, From, dropped(Key, Pid, State)).

end_at_gateway(_How, Key, From, #state{gateway = undefined} = State) ->
    withdrawn(Key, From, State);
end_at_gateway(How, Key, none, State) ->
    request_end(How, Key, {ended, Key}, State);
end_at_gateway(How, Key, From, #state{ending = Ending} = State) ->
    Ref = make_ref(),
    request_end(How, Key, {ended, Key, Ref}, State#state{ending = Ending#{Ref => {Key, From}}}).

%% There is no gateway. Nobody but this relay makes the subscription of a process of its node again;
%% of one elsewhere another relay may, so its end is for the next gateway to know.
withdrawn({_, Target}, From, State) when node(Target) =:= node() ->
    reply(From, ok),
    State;
withdrawn(_Key, From, #state{withdrawn = Withdrawn} = State)
  when map_size(Withdrawn) >= ?WITHDRAWN ->
    reply(From, {error, no_gateway}),
    State;
withdrawn(Key, From, #state{withdrawn = Withdrawn} = State) ->
    reply(From, ok),
    State#state{withdrawn = Withdrawn#{Key => unsubscribe}}.

reply(none, _Answer) -> ok;
reply(From, Answer) -> gen_server:reply(From, Answer).

%% Somebody has ended the subscription of the process at the gateway.
ended({_, Target} = Key, Pid, Stamp, #state{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{pids = #{Pid := Since}}} when Since < Stamp, Target =:= self() ->
            unwatch(Pid, Key, removed(Key, Pid, State));
        #{Key := #sub{pids = #{Pid := Since}}} when Since < Stamp ->
            dropped(Key, Pid, State);
        _ ->
            State
    end.

%% The subscription of a process elsewhere, which the gateway need not be told of.
dropped({Topic, Target} = Key, Pid, #state{channel = Channel, subs = Subs} = State) ->
    ok = forget(Channel, Topic, Pid),
    _ = is_map_key(Key, Subs) andalso esdb_gater_lineage:topic_changed(Target, Topic, false),
    Left = case Subs of
               #{Key := #sub{waiting = []}} -> maps:remove(Key, Subs);
               #{Key := Sub} -> Subs#{Key := Sub#sub{pids = #{}}};
               _ -> Subs
           end,
    unwatch(Pid, Key, restored(Key, State#state{subs = Left})).

removed({Topic, Target} = Key, Pid, #state{channel = Channel, subs = Subs} = State) ->
    ok = forget(Channel, Topic, Pid),
    case Subs of
        #{Key := #sub{pids = Pids} = Sub} when is_map_key(Pid, Pids) ->
            _ = map_size(Pids) =:= 1 andalso esdb_gater_lineage:topic_changed(Target, Topic, false),
            Left = maps:remove(Pid, Pids),
            ok = local_changed(Key, Pids, Left, State),
            ok = weigh(Key, Sub#sub.status, map_size(Pids), map_size(Left), State),
            put_sub(Key, Sub#sub{pids = Left}, State);
        _ ->
            State
    end.

forget(Channel, Topic, Pid) ->
    true = ets:delete(?TABLE, {Channel, Topic, Pid}),
    true = ets:delete(?TOKENS, {Channel, Topic, Pid}),
    ok.

process_gone(Pid, #state{watched = Watched} = State) ->
    {{_, Keys}, Rest} = maps:take(Pid, Watched),
    maps:fold(fun(Key, _, Acc) -> removed(Key, Pid, Acc) end, State#state{watched = Rest}, Keys).

%%% Watching subscribers

watch(Pid, Key, #state{watched = Watched} = State) ->
    {Ref, Keys} = case Watched of
                      #{Pid := Known} -> Known;
                      _ -> {erlang:monitor(process, Pid), #{}}
                  end,
    State#state{watched = Watched#{Pid => {Ref, Keys#{Key => []}}}}.

unwatch(Pid, Key, #state{watched = Watched} = State) ->
    case Watched of
        #{Pid := {Ref, Keys}} ->
            case maps:remove(Key, Keys) of
                Left when map_size(Left) =:= 0 ->
                    true = erlang:demonitor(Ref, [flush]),
                    State#state{watched = maps:remove(Pid, Watched)};
                Left ->
                    State#state{watched = Watched#{Pid := {Ref, Left}}}
            end;
        _ ->
            State
    end.

%% Out of reach is not dead; the gateway may still reach it. Looks go on every few seconds,
%% whether or not the attempt to connect has ended. The monitor that ended tells whom a look
%% is for: one who was watched anew meanwhile has another.
look_later(Pid, Ref, Looks) ->
    _ = erlang:send_after(?LOOK_AGAIN, self(), {look_again, Pid, Ref, Looks}),
    ok.

look_again(Pid, _Ref, 0, State) ->
    process_gone(Pid, State);
look_again(Pid, Ref, Looks, #state{sought = Sought} = State) ->
    ok = look_later(Pid, Ref, Looks - 1),
    Node = node(Pid),
    Pids = case Sought of
               #{Node := Others} -> Others;
               _ -> ok = connect(Node), #{}
           end,
    State#state{sought = Sought#{Node => Pids#{Pid => Ref}}}.

%% It takes seconds if the host answers nothing, so a process of its own waits for it, one for each
%% node. It ends with the relay.
connect(Node) ->
    Relay = self(),
    _ = spawn_link(fun() -> Relay ! {connected, Node, connect_hidden(Node)} end),
    ok.

connect_hidden(Node) ->
    try net_kernel:hidden_connect_node(Node)
    catch exit:_ -> false
    end.

found(true, Pids, State) ->
    maps:fold(fun watch_again/3, State, Pids);
found(_, _Pids, State) ->
    State.

watch_again(Pid, Ended, #state{watched = Watched} = State) ->
    case Watched of
        #{Pid := {Ended, Keys}} ->
            Ref = erlang:monitor(process, Pid),
            State#state{watched = Watched#{Pid := {Ref, Keys}}};
        _ ->
            State
    end.

%%% Handing out

%% Messages that have come already. A subscriber that is woken for several of them takes them
%% in a fraction of the time that as many wake-ups would.
more(_Channel, 0) ->
    [];
more(Channel, Left) ->
    receive
        {channel_message, Channel, _, _} = Message -> [Message | more(Channel, Left - 1)]
    after 0 ->
        []
    end.

hand_out([{_, _, Topic, _} = Message], State) ->
    hand_out(Topic, [Message], State);
hand_out(Messages, State) ->
    ByTopic = maps:groups_from_list(fun({_, _, Topic, _}) -> Topic end, Messages),
    maps:fold(fun hand_out/3, State, ByTopic).

hand_out(Topic, Messages, #state{replays = Replays, subs = Subs} = State) ->
    Key = {Topic, self()},
    case Subs of
        #{Key := #sub{pids = Pids} = Sub} ->
            maps:foreach(fun(Pid, _) -> send_all(Pid, Messages) end, Pids),
            case Replays of
                true ->
                    {_, _, _, Last} = lists:last(Messages),
                    State#state{subs = Subs#{Key := Sub#sub{last = {last, Last}}}};
                false ->
                    State
            end;
        _ ->
            State
    end.

send_all(Pid, [Message | Messages]) ->
    Pid ! Message,
    send_all(Pid, Messages);
send_all(_Pid, []) ->
    ok.

local_subscribers(Topic, #state{subs = Subs}) ->
    case Subs of
        #{{Topic, self()} := #sub{pids = Pids}} -> maps:keys(Pids);
        _ -> []
    end.

%%% Publishing for others

pass(Publish, From, State) ->
    {Named, Local} = named(Publish, State),
    request(Named, {pass, From, Local, Publish}, State).

%% The same way as by {@link esdb_gater_window}, so that the messages of a publisher that uses both
%% keep their order.
named(Publish, #state{channel = Channel, gateway = Gateway}) ->
    case esdb_gater_window:is_local(Channel, Gateway) of
        true -> {setelement(1, Publish, publish_elsewhere), true};
        false -> {Publish, false}
    end.

publish_here(true, Publish, #state{channel = Channel}) ->
    esdb_gater_local:deliver(Channel, element(2, Publish), element(3, Publish));
publish_here(false, _Publish, _State) ->
    ok.

%%% Requests to the gateway

request(_Request, {pass, From, _, _}, #state{gateway = undefined} = State) ->
    gen_server:reply(From, {error, no_gateway}),
    State;
request(_Request, _Label, #state{gateway = undefined} = State) ->
    State;
request(Request, Label, #state{channel = Channel, gateway = Node, requests = Requests} = State) ->
    To = esdb_gater_transport:address(Channel, Node),
    State#state{requests = gen_server:send_request(To, Request, Label, Requests)}.

maybe_response(Message, #state{requests = Requests} = State) ->
    case gen_server:check_response(Message, Requests, true) of
        {{reply, Reply}, Label, Rest} ->
            response(Label, Reply, State#state{requests = Rest});
        {{error, {noproc, _}}, Label, Rest} ->
            response(Label, {error, unknown_channel}, State#state{requests = Rest});
        {{error, _}, Label, Rest} ->
            %% The connection is going; the link says so as well.
            lost(Label, State#state{requests = Rest});
        _ ->
            State
    end.

response({subscribed, Key}, Answer, State) ->
    restored(Key, subscribed(Key, Answer, State));
response({pass, From, Local, Publish}, Answer, State) ->
    _ = Answer =:= ok andalso publish_here(Local, Publish, State),
    gen_server:reply(From, Answer),
    State;
response({ended, _Key}, Answer, State) ->
    learn_from(Answer, State);
response({ended, _Key, Ref}, Answer, #state{ending = Ending} = State) ->
    {{_, From}, Rest} = maps:take(Ref, Ending),
    gen_server:reply(From, case Answer of {ok, _, _} -> ok; _ -> Answer end),
    learn_from(Answer, State#state{ending = Rest}).

learn_from({ok, Stamp, _Replays}, State) -> learn(Stamp, State);
learn_from(_Answer, State) -> State.

lost({subscribed, Key}, #state{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{status = asked} = Sub} ->
            State#state{subs = Subs#{Key := Sub#sub{status = wanted, former = none}}};
        _ ->
            State
    end;
lost({pass, From, _, _}, State) ->
    gen_server:reply(From, {error, no_gateway}),
    State;
lost({ended, Key}, #state{withdrawn = Withdrawn} = State) ->
    State#state{withdrawn = Withdrawn#{Key => leave}};
lost({ended, Key, Ref}, #state{ending = Ending} = State) ->
    {{_, From}, Rest} = maps:take(Ref, Ending),
    withdrawn(Key, From, State#state{ending = Rest}).
