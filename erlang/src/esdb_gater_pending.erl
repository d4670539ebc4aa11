%%% @private
%%% @doc The registrations and withdrawals that the link carries to a gateway: those that wait for a
%%% gateway, and those that are sent but not answered. The module is pure: {@link
%%% esdb_gater_link_core} has their timers set and their callers answered.
%%%
%%% A registration that the gateway accepts after its caller was told that it failed is *late*. It
%%% is to be withdrawn, unless another registration of the same pair succeeds. While others are
%%% pending it is therefore remembered, and the last of them decides. Invariant: a late pair has a
%%% pending registration.
-module(esdb_gater_pending).

-export([new/0, add/5, sent/2, unsent/1, gateway_lost/1, take_unregistrations/1, take/2, expire/2,
         late/3, take_late/3, size/1]).

-export_type([pending/0, id/0, kind/0]).

-type kind() :: register | unregister.
-type id() :: pos_integer().
-type pair() :: {StoreId :: atom(), pid()}.

-record(request, {
    kind :: kind(),
    store :: atom(),
    pid :: pid(),
    from :: gen_server:from() | none,
    sent = false :: boolean()               % to the gateway in use
}).

-record(pending, {
    requests = #{} :: #{id() => #request{}},
    registrations = #{} :: #{pair() => pos_integer()},  % how many requests of a pair are
    late = #{} :: #{pair() => []},
    next = 1 :: id()
}).

-opaque pending() :: #pending{}.

%% @doc Returns a value without requests.
-spec new() -> pending().
new() -> #pending{}.

%% @doc Adds a request. It is later taken, or expired when its time is over, by the returned id.
-spec add(kind(), StoreId :: atom(), pid(), gen_server:from() | none, pending()) ->
          {id(), pending()}.
add(Kind, Store, Pid, From, #pending{requests = Requests, next = Id} = Pending) ->
    Request = #request{kind = Kind, store = Store, pid = Pid, from = From},
    {Id, count(Request, 1, Pending#pending{requests = Requests#{Id => Request}, next = Id + 1})}.

%% @doc Records that a request was sent to the gateway in use.
-spec sent(id(), pending()) -> pending().
sent(Id, #pending{requests = Requests} = Pending) ->
    case Requests of
        #{Id := Request} ->
            Pending#pending{requests = Requests#{Id := Request#request{sent = true}}};
        _ ->
            Pending
    end.

%% @doc Returns the requests that are not sent yet, in the order in which they came.
-spec unsent(pending()) -> [{id(), kind(), StoreId :: atom(), pid()}].
unsent(#pending{requests = Requests}) ->
    lists:sort([{Id, Kind, Store, Pid}
                || {Id, #request{kind = Kind, store = Store, pid = Pid, sent = false}}
                       <- maps:to_list(Requests)]).

%% @doc Records that all requests have to be sent again.
-spec gateway_lost(pending()) -> pending().
gateway_lost(#pending{requests = Requests} = Pending) ->
    Pending#pending{requests = maps:map(fun(_, R) -> R#request{sent = false} end, Requests)}.

%% @doc Removes and returns all withdrawals, in the order in which they came.
-spec take_unregistrations(pending()) ->
          {[{id(), StoreId :: atom(), pid(), gen_server:from() | none}], pending()}.
take_unregistrations(#pending{requests = Requests} = Pending) ->
    Ids = lists:sort([Id || {Id, #request{kind = unregister}} <- maps:to_list(Requests)]),
    lists:mapfoldl(fun(Id, Acc) ->
                       #pending{requests = #{Id := #request{store = Store, pid = Pid}}} = Acc,
                       {From, Rest} = take(Id, Acc),
                       {{Id, Store, Pid, From}, Rest}
                   end, Pending, Ids).

%% @doc Removes a request that was answered. Returns `late' if its caller was told that it failed.
-spec take(id(), pending()) -> {gen_server:from() | none, pending()} | late.
take(Id, #pending{requests = Requests} = Pending) ->
    case maps:take(Id, Requests) of
        {#request{from = From} = Request, Rest} ->
            {From, count(Request, -1, Pending#pending{requests = Rest})};
        error ->
            late
    end.

%% @doc Removes a request whose time is over. Returns `late' if it was answered before.
-spec expire(id(), pending()) ->
          {gen_server:from() | none, StoreId :: atom(), pid(), pending()} | late.
expire(Id, #pending{requests = Requests} = Pending) ->
    case Requests of
        #{Id := #request{store = Store, pid = Pid}} ->
            {From, Rest} = take(Id, Pending),
            {From, Store, Pid, Rest};
        _ ->
            late
    end.

%% @doc Records that a registration of this pair is late. The caller has to call {@link take_late/3}
%% afterwards.
-spec late(StoreId :: atom(), pid(), pending()) -> pending().
late(Store, Pid, #pending{late = Late} = Pending) ->
    Pending#pending{late = Late#{{Store, Pid} => []}}.

%% @doc Returns whether a late registration of this pair has to be decided on now: there is one, and
%% no other registration of the pair is pending any more. It is to be called whenever a registration
%% is late, answered or expired.
-spec take_late(StoreId :: atom(), pid(), pending()) -> {boolean(), pending()}.
take_late(Store, Pid, #pending{late = Late, registrations = Registrations} = Pending) ->
    Pair = {Store, Pid},
    case is_map_key(Pair, Late) andalso not is_map_key(Pair, Registrations) of
        true -> {true, Pending#pending{late = maps:remove(Pair, Late)}};
        false -> {false, Pending}
    end.

%% @doc Returns the number of requests.
-spec size(pending()) -> non_neg_integer().
size(#pending{requests = Requests}) -> map_size(Requests).

count(#request{kind = register, store = Store, pid = Pid}, More, Pending) ->
    #pending{registrations = Registrations} = Pending,
    Pair = {Store, Pid},
    case maps:get(Pair, Registrations, 0) + More of
        0 -> Pending#pending{registrations = maps:remove(Pair, Registrations)};
        N -> Pending#pending{registrations = Registrations#{Pair => N}}
    end;
count(_Unregister, _More, Pending) ->
    Pending.
