%% @doc Judges what clients saw of a cluster of gateways. It is pure: histories and views are
%% arguments, violations the result.
%%
%% Registrations. Each worker has one client, which does one thing after the other with it and
%% writes down the outcome: `ok', `unknown' (a time-out, a lost connection, `no_quorum': it may be
%% carried out at any time from then on, or never), or `{refused, Reason}'. From that follows
%% whether a living worker must, may or must not be offered when all has come to rest. A dead one
%% must not, whatever was done with it.
%%
%% Deliveries. A publisher is one process that publishes through one gateway and numbers what it
%% publishes per channel and topic. At a subscriber the numbers of a publisher may have gaps but
%% must rise: one that comes again, or after a greater one, was delivered twice or out of order.
-module(gater_history).

-export([workers/2, expectation/1, agreement/1, deliveries/2]).
-export_type([operation/0, worker/0, view/0, delivery/0, seen/0, violation/0]).

-type operation() :: {register | unregister, ok | unknown | {refused, term()}}.
%% A worker that lives, and what was done with it, in order.
-type worker() :: {Store :: atom(), pid(), [operation()]}.
%% What a gateway offers.
-type view() :: {Gateway :: node(), Store :: atom(), [{node(), pid()}]}.
%% What a subscriber was sent. A publisher's numbers start at 1 for each channel and topic.
-type delivery() ::
    {Subscriber :: pid(), Channel :: atom(), Topic :: binary(), Publisher :: pid(), pos_integer()}
    | {Subscriber :: pid(), {garbled, term()}}.
%% The last number a subscriber was sent of a publisher on a channel and topic.
-type seen() :: #{{pid(), atom(), binary(), pid()} => pos_integer()}.
-type violation() ::
    %% Acknowledged, alive, and not offered.
    {lost, Gateway :: node(), Store :: atom(), pid(), [operation()]}
    %% Alive, and offered although it must not be.
    | {withdrawn_but_offered, Gateway :: node(), Store :: atom(), pid(), [operation()]}
    | {dead_but_offered, Gateway :: node(), Store :: atom(), pid()}
    | {offered_twice, Gateway :: node(), Store :: atom(), pid()}
    | {wrong_node, Gateway :: node(), Store :: atom(), {node(), pid()}}
    | {refused, Store :: atom(), pid(), term()}
    | {disagreement, Store :: atom(), [{[node()], [{node(), pid()}]}]}
    | {twice, delivery()}
    | {out_of_order, delivery(), After :: pos_integer()}
    | {garbled, delivery()}.

%% @doc Judges what the gateways offer by what was done with the living workers.
-spec workers([worker()], [view()]) -> [violation()].
workers(Workers, Views) ->
    Known = maps:from_list([{{Store, Pid}, Operations} || {Store, Pid, Operations} <- Workers]),
    refusals(Workers) ++ agreement(Views) ++ lists:append([view(View, Known) || View <- Views]).

%% @doc What must hold of a living worker at the end.
%%
%% An operation of unknown outcome can be carried out late, even after one that was answered
%% since: a gateway that stood still goes on with what it had read.
-spec expectation([operation()]) -> must | may | must_not.
expectation(Operations) ->
    Possible = fun(What) -> lists:member({What, unknown}, Operations) end,
    case lists:last([unregister | [What || {What, ok} <- Operations]]) of
        register -> case Possible(unregister) of true -> may; false -> must end;
        unregister -> case Possible(register) of true -> may; false -> must_not end
    end.

%% @doc Gateways that offer different workers, or in a different order.
-spec agreement([view()]) -> [violation()].
agreement(Views) ->
    [{disagreement, Store, [{[G || {G, S, O} <- Views, S =:= Store, O =:= Offered], Offered}
                            || Offered <- Different]}
     || Store <- lists:usort([S || {_, S, _} <- Views]),
        Different <- [lists:usort([O || {_, S, O} <- Views, S =:= Store])],
        length(Different) > 1].

%% @doc Judges what subscribers were sent since the last time, each in the order it came, by what
%% they had been sent before.
-spec deliveries([delivery()], seen()) -> {[violation()], seen()}.
deliveries(Deliveries, Seen) ->
    {Violations, Next} = lists:foldl(fun delivery/2, {[], Seen}, Deliveries),
    {lists:reverse(Violations), Next}.

delivery(Delivery = {_, {garbled, _}}, {Violations, Seen}) ->
    {[{garbled, Delivery} | Violations], Seen};
delivery(Delivery = {Subscriber, Channel, Topic, Publisher, Number}, {Violations, Seen}) ->
    Key = {Subscriber, Channel, Topic, Publisher},
    case Seen of
        #{Key := Number} -> {[{twice, Delivery} | Violations], Seen};
        #{Key := Last} when Last > Number -> {[{out_of_order, Delivery, Last} | Violations], Seen};
        _ -> {Violations, Seen#{Key => Number}}
    end.

%%% Views

view({Gateway, Store, Offered}, Known) ->
    Pids = [Pid || {_, Pid} <- Offered],
    Set = maps:from_keys(Pids, offered),
    Lost = [{lost, Gateway, Store, Pid, Operations}
            || {{Of, Pid}, Operations} <- maps:to_list(Known), Of =:= Store,
               not is_map_key(Pid, Set), expectation(Operations) =:= must],
    Wrong = lists:append([offered(Gateway, Store, Pid, Known) || Pid <- maps:keys(Set)]),
    Twice = [{offered_twice, Gateway, Store, Pid} || Pid <- lists:usort(Pids -- maps:keys(Set))],
    Elsewhere = [{wrong_node, Gateway, Store, Worker}
                 || Worker = {Node, Pid} <- Offered, Node =/= node(Pid)],
    Lost ++ Wrong ++ Twice ++ Elsewhere.

offered(Gateway, Store, Pid, Known) ->
    case Known of
        #{{Store, Pid} := Operations} ->
            [{withdrawn_but_offered, Gateway, Store, Pid, Operations}
             || expectation(Operations) =:= must_not];
        _ ->
            [{dead_but_offered, Gateway, Store, Pid}]
    end.

%% A living worker is refused by nobody.
refusals(Workers) ->
    [{refused, Store, Pid, Reason}
     || {Store, Pid, Operations} <- Workers, {_, {refused, Reason}} <- Operations].
