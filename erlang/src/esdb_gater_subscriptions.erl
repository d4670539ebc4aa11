%%% @private
%%% @doc The subscriptions of a relay, and what becomes of them, without doing it.
%%%
%%% {@link esdb_gater_relay} tells this module each event and carries out the actions that it
%%% returns, in their order. Nothing here sends, monitors, or reads a clock or a table.
%%%
%%% A *subscription* is a topic with its target, the pid the gateway sends to: the relay or a
%%% process elsewhere. It is `wanted' (to be made when there is a gateway), `asked' or `held'.
%%% When the gateway is lost every subscription is wanted again. A caller is answered when its
%%% subscription is held, or `{error, no_gateway}' after five seconds.
%%%
%%% A process that subscribes with a capability token is subscribed under its own pid as well: the
%%% token is its own, and who has none is not to get what another one is granted.
%%%
%%% The gateway knows that the relay keeps its subscriptions, and tells it when somebody else ends
%%% one of them, at once or when the relay is back. Stamps say what is newer: the gateway gives one
%%% with each answer, each subscriber has the latest that was known when it subscribed, and an
%%% ending counts for those with an earlier one.
%%%
%%% On a channel that replays, as the gateway says with each answer, the last message of each topic
%%% that is held is remembered and given to processes that subscribe later: the gateway sees only
%%% the first of them.
%%% @end
-module(esdb_gater_subscriptions).

-export([new/2, handle/2, gateway/1, recipients/2, remember/3]).

-export_type([subscriptions/0, event/0, action/0, label/0, key/0, stamp/0, kept/0]).

-define(CALL_TIMEOUT_MS, 5000).         % a caller waits for a gateway
-define(MOST_WITHDRAWN, 10000).         % endings that are remembered while there is no gateway

-type key() :: {Topic :: binary(), Target :: pid()}.
-type stamp() :: non_neg_integer().     % 0: newer than any that is known
-type token() :: none | binary().
-type from() :: gen_server:from() | none.
-type kept() :: {Topic :: binary(), pid(), stamp(), token()}.
%% A subscriber that was kept over a crash of the relay.

-type event() ::
    {subscribe, Topic :: binary(), pid(), token(), gen_server:from(), IsHopeless :: boolean()}
  | {subscribe, Topic :: binary(), pid()}       % nobody waits for the answer
  | {unsubscribe, Topic :: binary(), pid(), from()}
  | {ended, Topic :: binary(), pid(), stamp()}  % by somebody else, at the gateway
  | {gone, [key()], pid()}                      % the process has ended
  | {up, node()} | down | {former, node()}      % a gateway
  | retry
  | {expire, key(), gen_server:from()}
  | {answer, label(), term()} | {no_answer, label()}.

-type label() :: {subscribed, key()} | {ended, key()} | {ended, key(), pos_integer()}.

-type action() ::
    {request, tuple(), label()}                 % to the channel at the gateway
  | {tell, tuple()}                             % a cast to it
  | {tell, node(), tuple()}                     % a cast to it at a former gateway
  | {reply, gen_server:from(), term()}
  | {await, key(), gen_server:from(), Milliseconds :: pos_integer()}    % ends with `expire'
  | {cancel, gen_server:from()}
  | retry_later                                 % ends with `retry'
  | {replay, pid(), Topic :: binary(), Message :: term()}
  | {keep, Topic :: binary(), pid(), stamp(), token()} | {forget, Topic :: binary(), pid()}
  | {watch, pid(), key()} | {unwatch, pid(), key()}
  | {topic_changed, Target :: pid(), Topic :: binary(), IsSubscribed :: boolean()}
  | {local_changed, Topic :: binary(), #{pid() => stamp()}}
  | {restored, node()}                          % the gateway has all that it was asked for
  | {not_restored, key(), Reason :: term()}.

-record(sub, {
    status = wanted :: wanted | asked | held,
    token = none :: token(),                % the gateway is shown it
    former = none :: none | {held, token()},    % it is held with this token still
    known = false :: boolean(),             % it was asked for: a gateway may have it
    pids = #{} :: #{pid() => stamp()},      % who it is for, and since when
    waiters = [] :: [{pid(), gen_server:from()}],
    last = none :: none | {last, term()}    % only where the channel replays
}).

-record(subscriptions, {
    relay :: pid(),
    gateway :: node() | undefined,
    replays = false :: boolean(),           % the gateway says so
    stamp = 0 :: stamp(),                   % the latest that is known
    restoring = none :: none | #{key() => []},  % asked for since the gateway came, unanswered
    subs = #{} :: #{key() => #sub{}},
    %% Given up while no gateway could be told; what a caller ends there is to be ended for all.
    withdrawn = #{} :: #{key() => leave | unsubscribe},
    ending = #{} :: #{pos_integer() => {key(), gen_server:from()}},     % callers that wait for it
    next = 1 :: pos_integer(),
    actions = [] :: [action()]              % of the event that is being handled, the last first
}).

-opaque subscriptions() :: #subscriptions{}.

%% @doc Returns the subscriptions of a relay that has been started, with those kept over a crash,
%% which a gateway may have.
-spec new(Relay :: pid(), [kept()]) -> {[action()], subscriptions()}.
new(Relay, Kept) ->
    State = lists:foldl(fun({Topic, Pid, Stamp, Token}, Acc) ->
                            kept(Topic, Pid, Stamp, Token, learn(Stamp, Acc))
                        end, #subscriptions{relay = Relay}, Kept),
    Known = maps:map(fun(_, Sub) -> Sub#sub{known = true} end, State#subscriptions.subs),
    done(State#subscriptions{subs = Known}).

kept(Topic, Pid, Stamp, none, State) ->
    added(shared_key(Topic, Pid, State), Pid, Stamp, State);
kept(Topic, Pid, Stamp, Token, #subscriptions{subs = Subs} = State) ->
    Key = {Topic, Pid},
    added(Key, Pid, Stamp, State#subscriptions{subs = Subs#{Key => #sub{token = Token}}}).

%% @doc Returns the gateway in use.
-spec gateway(subscriptions()) -> node() | undefined.
gateway(#subscriptions{gateway = Gateway}) -> Gateway.

%% @doc Returns the processes that the relay hands a topic out to.
-spec recipients(Topic :: binary(), subscriptions()) -> #{pid() => stamp()}.
recipients(Topic, #subscriptions{relay = Relay, subs = Subs}) ->
    case Subs of
        #{{Topic, Relay} := #sub{pids = Pids}} -> Pids;
        _ -> #{}
    end.

%% @doc A message was handed out; it is the last of its topic where the channel replays.
-spec remember(Topic :: binary(), Message :: term(), subscriptions()) -> subscriptions().
remember(Topic, Message, #subscriptions{replays = true, relay = Relay, subs = Subs} = State) ->
    Key = {Topic, Relay},
    case Subs of
        #{Key := Sub} -> State#subscriptions{subs = Subs#{Key := Sub#sub{last = {last, Message}}}};
        _ -> State
    end;
remember(_Topic, _Message, State) ->
    State.

%% @doc Returns what is to be done about an event.
-spec handle(event(), subscriptions()) -> {[action()], subscriptions()}.
handle({subscribe, Topic, Pid, none, From, IsHopeless}, State) ->
    done(subscribe(key(Topic, Pid, State), Pid, From, IsHopeless, State));
handle({subscribe, Topic, Pid, Token, From, IsHopeless}, State) ->
    done(subscribe_with(Token, Topic, Pid, From, IsHopeless, State));
handle({subscribe, Topic, Pid}, State) ->
    Key = shared_key(Topic, Pid, State),
    done(ask(Key, added(Key, Pid, 0, State)));
handle({unsubscribe, Topic, Pid, From}, State) ->
    done(unsubscribe(Topic, Pid, From, State));
handle({ended, Topic, Pid, Stamp}, State) ->
    done(ended(key(Topic, Pid, State), Pid, Stamp, learn(Stamp, State)));
handle({gone, Keys, Pid}, State) ->
    done(lists:foldl(fun(Key, Acc) -> removed(Key, Pid, Acc) end, State, Keys));
handle({up, Node}, State) ->
    Down = #subscriptions{subs = Subs} = withdraw(gone_down(State, Node)),
    Asked = ask_all(Down),
    done(maybe_restored(Asked#subscriptions{restoring = maps:map(fun(_, _) -> [] end, Subs)}));
handle(down, State) ->
    done(gone_down(State, undefined));
handle({former, Node}, #subscriptions{relay = Relay, subs = Subs} = State) ->
    done(lists:foldl(fun({Topic, Target}, Acc) ->
                         do({tell, Node, {forget, Topic, Target, Relay}}, Acc)
                     end, State, maps:keys(Subs)));
handle(retry, State) ->
    done(ask_all(State));
handle({expire, Key, From}, State) ->
    done(expire(Key, From, State));
handle({answer, Label, Answer}, State) ->
    done(answered(Label, Answer, State));
handle({no_answer, Label}, State) ->
    done(lost(Label, State)).

do(Action, #subscriptions{actions = Actions} = State) ->
    State#subscriptions{actions = [Action | Actions]}.

done(#subscriptions{actions = Actions} = State) ->
    {lists:reverse(Actions), State#subscriptions{actions = []}}.

%%% The gateway

%% Whatever was asked or held is wanted again from the next gateway. Those who wait for the end
%% of a subscription need not: it is remembered.
gone_down(#subscriptions{subs = Subs, ending = Ending} = State, Next) ->
    Wanted = maps:map(fun(_, Sub) -> Sub#sub{status = wanted, former = none} end, Subs),
    Down = State#subscriptions{gateway = Next, restoring = none, subs = Wanted, ending = #{}},
    maps:fold(fun(_, {Key, From}, Acc) -> withdrawn(Key, From, Acc) end, Down, Ending).

%% A gateway that was only out of reach still has what was given up meanwhile.
withdraw(#subscriptions{subs = Subs, withdrawn = Withdrawn} = State) ->
    maps:fold(fun(Key, How, Acc) -> request_end(How, Key, {ended, Key}, Acc) end,
              State#subscriptions{withdrawn = #{}}, maps:without(maps:keys(Subs), Withdrawn)).

%% The link waits for this before it lets others use the gateway.
maybe_restored(#subscriptions{restoring = Left, gateway = Node} = State)
  when is_map(Left), map_size(Left) =:= 0 ->
    do({restored, Node}, State#subscriptions{restoring = none});
maybe_restored(State) ->
    State.

restored(_Key, #subscriptions{restoring = none} = State) -> State;
restored(Key, #subscriptions{restoring = Left} = State) ->
    maybe_restored(State#subscriptions{restoring = maps:remove(Key, Left)}).

answered({subscribed, Key}, Answer, State) ->
    restored(Key, subscribed(Key, Answer, State));
answered({ended, _Key}, Answer, State) ->
    learn_from(Answer, State);
answered({ended, _Key, Id}, Answer, #subscriptions{ending = Ending} = State) ->
    {{_, From}, Rest} = maps:take(Id, Ending),
    Told = case Answer of {ok, _, _} -> ok; _ -> Answer end,
    learn_from(Answer, do({reply, From, Told}, State#subscriptions{ending = Rest})).

learn_from({ok, Stamp, _Replays}, State) -> learn(Stamp, State);
learn_from(_Answer, State) -> State.

lost({subscribed, Key}, #subscriptions{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{status = asked} = Sub} ->
            State#subscriptions{subs = Subs#{Key := Sub#sub{status = wanted, former = none}}};
        _ ->
            State
    end;
lost({ended, Key}, #subscriptions{withdrawn = Withdrawn} = State) ->
    State#subscriptions{withdrawn = Withdrawn#{Key => leave}};
lost({ended, Key, Id}, #subscriptions{ending = Ending} = State) ->
    {{_, From}, Rest} = maps:take(Id, Ending),
    withdrawn(Key, From, State#subscriptions{ending = Rest}).

%%% Subscribing

%% The subscription of a process that has, or may have, one of its own.
key(Topic, Pid, #subscriptions{subs = Subs}) when is_map_key({Topic, Pid}, Subs) -> {Topic, Pid};
key(Topic, Pid, State) -> shared_key(Topic, Pid, State).

%% The one that all processes of this node share, or that of a process elsewhere.
shared_key(Topic, Pid, #subscriptions{relay = Relay}) when node(Pid) =:= node(Relay) -> {Topic, Relay};
shared_key(Topic, Pid, _State) -> {Topic, Pid}.

%% A process that needed no token stays subscribed as it is; it must not get messages twice.
subscribe_with(Token, Topic, Pid, From, IsHopeless, #subscriptions{subs = Subs} = State) ->
    Shared = {Topic, State#subscriptions.relay},
    case Subs of
        #{Shared := #sub{status = held, pids = #{Pid := _}}} ->
            do({reply, From, ok}, State);
        #{Shared := #sub{pids = #{Pid := _}}} ->
            Alone = do({unwatch, Pid, Shared}, removed(Shared, Pid, State)),
            subscribe_alone(Token, {Topic, Pid}, From, IsHopeless, Alone);
        _ ->
            subscribe_alone(Token, {Topic, Pid}, From, IsHopeless, State)
    end.

%% One that is held is asked for again, so that the new token is judged.
subscribe_alone(Token, {_, Pid} = Key, From, IsHopeless, #subscriptions{subs = Subs} = State) ->
    Sub = case maps:get(Key, Subs, #sub{}) of
              #sub{status = held, token = Other} = Held ->
                  Held#sub{status = wanted, token = Token, former = {held, Other}};
              Asked ->
                  Asked#sub{token = Token}
          end,
    subscribe(Key, Pid, From, IsHopeless, State#subscriptions{subs = Subs#{Key => Sub}}).

%% Who is told `ok' is sent what is published from then on.
subscribe({Topic, _} = Key, Pid, From, IsHopeless, #subscriptions{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{status = held, last = Last, pids = Pids}} ->
            Added = added(Key, Pid, State#subscriptions.stamp, State),
            replay(Last, Topic, Pid, is_map_key(Pid, Pids), do({reply, From, ok}, Added));
        _ when IsHopeless ->
            do({reply, From, {error, no_gateway}}, State);
        _ ->
            #sub{waiters = Waiters} = Sub = maps:get(Key, Subs, #sub{}),
            Waiting = put_sub(Key, Sub#sub{waiters = [{Pid, From} | Waiters]}, State),
            ask(Key, do({await, Key, From, ?CALL_TIMEOUT_MS}, Waiting))
    end.

replay({last, Message}, Topic, Pid, false, #subscriptions{replays = true} = State) ->
    do({replay, Pid, Topic, Message}, State);
replay(_, _Topic, _Pid, _Subscribed, State) ->
    State.

%% The process is a subscriber from now on.
added({Topic, Target} = Key, Pid, Stamp, #subscriptions{subs = Subs} = State) ->
    #sub{pids = Pids, token = Token} = Sub = maps:get(Key, Subs, #sub{}),
    More = Pids#{Pid => Stamp},
    Kept = do({topic_changed, Target, Topic, true}, do({keep, Topic, Pid, Stamp, Token}, State)),
    Local = local_changed(Key, Pids, More, put_sub(Key, Sub#sub{pids = More}, Kept)),
    do({watch, Pid, Key}, weigh(Key, Sub#sub.status, map_size(Pids), map_size(More), Local)).

%% Publishers of this node send to them directly.
local_changed({Topic, Relay}, Before, Now, #subscriptions{relay = Relay} = State)
  when map_size(Before) =/= map_size(Now) ->
    do({local_changed, Topic, Now}, State);
local_changed(_Key, _Before, _Now, State) ->
    State.

%% How many processes it hands out a topic to, for those who count the recipients of a publication.
%% One is what the gateway takes it to be.
weigh(_Key, _Status, Same, Same, State) -> State;
weigh(_Key, _Status, 0, 1, State) -> State;
weigh(_Key, _Status, _Before, 0, State) -> State;
weigh({Topic, Relay}, held, _Before, Now, #subscriptions{relay = Relay, gateway = Node} = State)
  when Node =/= undefined ->
    do({tell, {weigh, Topic, Relay, Now}}, State);
weigh(_Key, _Status, _Before, _Now, State) ->
    State.

learn(Stamp, #subscriptions{stamp = Latest} = State) ->
    State#subscriptions{stamp = max(Stamp, Latest)}.

put_sub(Key, #sub{pids = Pids, waiters = []} = Sub, State) when map_size(Pids) =:= 0 ->
    given_up(Key, Sub, State);
put_sub(Key, Sub, #subscriptions{subs = Subs} = State) ->
    State#subscriptions{subs = Subs#{Key => Sub}}.

%% Nobody wants it any more. Requests of the relay stay in order, so it may be asked for again at
%% once.
given_up(Key, #sub{known = Known}, #subscriptions{subs = Subs} = State) ->
    Fewer = State#subscriptions{subs = maps:remove(Key, Subs)},
    case Known of
        true -> restored(Key, request_end(leave, Key, {ended, Key}, Fewer));
        false -> Fewer
    end.

%% Whoever was not told of the end goes on sending, if only to a process that has unsubscribed.
%% What no gateway was asked for is not remembered, so without one there are at most as many
%% `withdrawn' as it had subscriptions, whatever comes and goes meanwhile.
request_end(How, Key, _Label, #subscriptions{gateway = undefined, withdrawn = Withdrawn} = State) ->
    State#subscriptions{withdrawn = Withdrawn#{Key => How}};
request_end(leave, {Topic, Target}, Label, #subscriptions{relay = Relay} = State) ->
    do({request, {leave, Topic, Target, Relay}, Label}, State);
request_end(unsubscribe, {Topic, Target}, Label, State) ->
    do({request, {unsubscribe, Topic, Target}, Label}, State).

ask(_Key, #subscriptions{gateway = undefined} = State) ->
    State;
ask(Key, #subscriptions{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{status = wanted} = Sub} ->
            Asked = State#subscriptions{subs = Subs#{Key := Sub#sub{status = asked, known = true}}},
            do({request, keep(Key, Sub, State), {subscribed, Key}}, Asked);
        _ ->
            State
    end.

keep({Topic, Target}, #sub{token = Token} = Sub, #subscriptions{relay = Relay} = State) ->
    Since = since(Target, Sub, State),
    case Token of
        none -> {keep, Topic, Target, Relay, Since};
        _ -> {keep, Topic, Target, Relay, Since, Token}
    end.

%% Who waits subscribes now; what nobody waits for was subscribed before.
since(Relay, _Sub, #subscriptions{relay = Relay, stamp = Stamp}) -> Stamp;
since(_Target, #sub{waiters = [_ | _]}, _State) -> 0;
since(Target, #sub{pids = Pids}, _State) -> maps:get(Target, Pids, 0).

ask_all(#subscriptions{subs = Subs} = State) ->
    lists:foldl(fun ask/2, State, maps:keys(Subs)).

subscribed({_, Target} = Key, Answer, #subscriptions{subs = Subs} = State) ->
    case {Subs, Answer} of
        {#{Key := #sub{status = asked} = Sub}, {ok, Stamp, Replays}} ->
            Held = Sub#sub{status = held, waiters = [], former = none},
            Learnt = learn(Stamp, State#subscriptions{replays = Replays, subs = Subs#{Key := Held}}),
            Weighed = weigh(Key, held, 1, map_size(Sub#sub.pids), Learnt),
            answer_all(Key, Sub#sub.waiters, ok, Stamp, dated(Key, Stamp, Weighed));
        {#{Key := #sub{status = asked, waiters = [], pids = #{Target := Since}}}, {error, ended}}
          when Since > 0 ->
            dropped(Key, Target, State);
        {#{Key := #sub{status = asked} = Sub}, {error, ended}} ->
            %% One that was ended while it was under way; this one is newer.
            ask(Key, State#subscriptions{subs = Subs#{Key := Sub#sub{status = wanted}}});
        {#{Key := #sub{status = asked, former = {held, Former}} = Sub},
         {error, {unauthorized, _}}} ->
            Held = Sub#sub{status = held, token = Former, former = none, waiters = []},
            answer_all(Key, Sub#sub.waiters, Answer, 0, State#subscriptions{subs = Subs#{Key := Held}});
        {#{Key := #sub{status = asked, token = Token, pids = Pids} = Sub},
         {error, {unauthorized, Reason}}} when Token =/= none, map_size(Pids) > 0 ->
            %% The token was good when the process subscribed, and is not any more.
            Ended = State#subscriptions{subs = Subs#{Key := Sub#sub{waiters = []}}},
            Told = answer_all(Key, Sub#sub.waiters, Answer, 0, Ended),
            dropped(Key, Target, do({not_restored, Key, Reason}, Told));
        {#{Key := #sub{status = asked} = Sub}, _} ->
            Wanted = State#subscriptions{subs = Subs#{Key := Sub#sub{status = wanted, waiters = []}}},
            refused(Key, answer_all(Key, Sub#sub.waiters, Answer, 0, Wanted));
        _ ->
            State
    end.

answer_all(Key, Waiters, Answer, Stamp, State) ->
    lists:foldr(fun({Pid, From}, Acc) ->
                    Next = case Answer of
                               ok -> added(Key, Pid, Stamp, Acc);
                               _ -> Acc
                           end,
                    do({reply, From, Answer}, do({cancel, From}, Next))
                end, State, Waiters).

%% Those that were subscribed without waiting for the answer.
dated(Key, Stamp, #subscriptions{subs = Subs} = State) ->
    #{Key := #sub{pids = Pids}} = Subs,
    lists:foldl(fun(Pid, Acc) -> added(Key, Pid, Stamp, Acc) end, State,
                [Pid || {Pid, 0} <- maps:to_list(Pids)]).

refused(Key, #subscriptions{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{pids = Pids}} when map_size(Pids) =:= 0 ->
            State#subscriptions{subs = maps:remove(Key, Subs)};
        _ ->
            do(retry_later, State)
    end.

expire(Key, From, #subscriptions{subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{waiters = Waiters} = Sub} ->
            {Expired, Others} = lists:partition(fun({_, F}) -> F =:= From end, Waiters),
            Told = lists:foldl(fun(_, Acc) -> do({reply, From, {error, no_gateway}}, Acc) end,
                               State, Expired),
            put_sub(Key, Sub#sub{waiters = Others}, Told);
        _ ->
            State
    end.

%%% Unsubscribing

%% Somebody else may have subscribed the process, too, so the gateway is told in any case: who is
%% told `ok' finds it ended.
unsubscribe(Topic, Pid, From, #subscriptions{relay = Relay} = State) when node(Pid) =:= node(Relay) ->
    Key = key(Topic, Pid, State),
    end_at_gateway(leave, {Topic, Pid}, From, do({unwatch, Pid, Key}, removed(Key, Pid, State)));
unsubscribe(Topic, Pid, From, State) ->
    Key = {Topic, Pid},
    end_at_gateway(unsubscribe, Key, From, dropped(Key, Pid, State)).

end_at_gateway(_How, Key, From, #subscriptions{gateway = undefined} = State) ->
    withdrawn(Key, From, State);
end_at_gateway(How, Key, none, State) ->
    request_end(How, Key, {ended, Key}, State);
end_at_gateway(How, Key, From, #subscriptions{ending = Ending, next = Id} = State) ->
    request_end(How, Key, {ended, Key, Id},
                State#subscriptions{ending = Ending#{Id => {Key, From}}, next = Id + 1}).

%% There is no gateway. Nobody but this relay makes the subscription of a process of its node again;
%% of one elsewhere another relay may, so its end is for the next gateway to know.
withdrawn({_, Target}, From, #subscriptions{relay = Relay} = State)
  when node(Target) =:= node(Relay) ->
    reply(From, ok, State);
withdrawn(_Key, From, #subscriptions{withdrawn = Withdrawn} = State)
  when map_size(Withdrawn) >= ?MOST_WITHDRAWN ->
    reply(From, {error, no_gateway}, State);
withdrawn(Key, From, #subscriptions{withdrawn = Withdrawn} = State) ->
    reply(From, ok, State#subscriptions{withdrawn = Withdrawn#{Key => unsubscribe}}).

reply(none, _Answer, State) -> State;
reply(From, Answer, State) -> do({reply, From, Answer}, State).

%% Somebody has ended the subscription of the process at the gateway.
ended({_, Target} = Key, Pid, Stamp, #subscriptions{relay = Relay, subs = Subs} = State) ->
    case Subs of
        #{Key := #sub{pids = #{Pid := Since}}} when Since < Stamp, Target =:= Relay ->
            do({unwatch, Pid, Key}, removed(Key, Pid, State));
        #{Key := #sub{pids = #{Pid := Since}}} when Since < Stamp ->
            dropped(Key, Pid, State);
        _ ->
            State
    end.

%% The subscription of a process elsewhere, which the gateway need not be told of.
dropped({Topic, Target} = Key, Pid, #subscriptions{subs = Subs} = State) ->
    Forgotten = do({forget, Topic, Pid}, State),
    Left = case Subs of
               #{Key := #sub{waiters = []}} -> maps:remove(Key, Subs);
               #{Key := Sub} -> Subs#{Key := Sub#sub{pids = #{}}};
               _ -> Subs
           end,
    Changed = case is_map_key(Key, Subs) of
                  true -> do({topic_changed, Target, Topic, false}, Forgotten);
                  false -> Forgotten
              end,
    do({unwatch, Pid, Key}, restored(Key, Changed#subscriptions{subs = Left})).

removed({Topic, Target} = Key, Pid, #subscriptions{subs = Subs} = State) ->
    Forgotten = do({forget, Topic, Pid}, State),
    case Subs of
        #{Key := #sub{pids = Pids} = Sub} when is_map_key(Pid, Pids) ->
            Left = maps:remove(Pid, Pids),
            Changed = case map_size(Left) of
                          0 -> do({topic_changed, Target, Topic, false}, Forgotten);
                          _ -> Forgotten
                      end,
            Local = local_changed(Key, Pids, Left, Changed),
            put_sub(Key, Sub#sub{pids = Left},
                    weigh(Key, Sub#sub.status, map_size(Pids), map_size(Left), Local));
        _ ->
            Forgotten
    end.
