%%% @private
%%% @doc Registrations and their withdrawals that the link carries to a gateway: those that
%%% wait for one, and those that are sent and not yet answered. A caller waits five seconds.
-module(esdb_gater_pending).

-export([new/0, add/5, sent/2, unsent/1, gateway_lost/1, take/2, expire/2, answer/2, size/1]).

-export_type([pending/0, id/0, kind/0]).

-type kind() :: register | unregister.
-type id() :: pos_integer().

-record(request, {
    kind :: kind(),
    store :: atom(),
    pid :: pid(),
    from :: gen_server:from() | none,
    timer :: reference(),
    sent = false :: boolean()               % to the gateway in use
}).

-record(pending, {
    requests = #{} :: #{id() => #request{}},
    next = 1 :: id()
}).

-opaque pending() :: #pending{}.

-define(TIMEOUT, 5000).

%% @doc Nothing waits.
-spec new() -> pending().
new() -> #pending{}.

%% @doc One more. Unless taken before, the calling process is sent `{expire_request, Id}' in
%% time, for {@link expire/2}.
-spec add(kind(), StoreId :: atom(), pid(), gen_server:from() | none, pending()) ->
          {id(), pending()}.
add(Kind, Store, Pid, From, #pending{requests = Requests, next = Id} = Pending) ->
    Timer = erlang:send_after(?TIMEOUT, self(), {expire_request, Id}),
    Request = #request{kind = Kind, store = Store, pid = Pid, from = From, timer = Timer},
    {Id, Pending#pending{requests = Requests#{Id => Request}, next = Id + 1}}.

%% @doc It is on its way to the gateway in use.
-spec sent(id(), pending()) -> pending().
sent(Id, #pending{requests = Requests} = Pending) ->
    case Requests of
        #{Id := Request} ->
            Pending#pending{requests = Requests#{Id := Request#request{sent = true}}};
        _ ->
            Pending
    end.

%% @doc What is not yet sent, in the order it came.
-spec unsent(pending()) -> [{id(), kind(), StoreId :: atom(), pid()}].
unsent(#pending{requests = Requests}) ->
    lists:sort([{Id, Kind, Store, Pid}
                || {Id, #request{kind = Kind, store = Store, pid = Pid, sent = false}}
                       <- maps:to_list(Requests)]).

%% @doc Whatever was sent has to be sent again.
-spec gateway_lost(pending()) -> pending().
gateway_lost(#pending{requests = Requests} = Pending) ->
    Pending#pending{requests = maps:map(fun(_, R) -> R#request{sent = false} end, Requests)}.

%% @doc It is answered; `late' if its caller has been told that it failed.
-spec take(id(), pending()) -> {gen_server:from() | none, pending()} | late.
take(Id, #pending{requests = Requests} = Pending) ->
    case maps:take(Id, Requests) of
        {#request{from = From, timer = Timer}, Rest} ->
            _ = erlang:cancel_timer(Timer),
            {From, Pending#pending{requests = Rest}};
        error ->
            late
    end.

%% @doc It has waited long enough.
-spec expire(id(), pending()) -> pending().
expire(Id, Pending) ->
    case take(Id, Pending) of
        {From, Rest} ->
            answer(From, {error, no_gateway}),
            Rest;
        late ->
            Pending
    end.

%% @doc Answers a caller, if there is one.
-spec answer(gen_server:from() | none, term()) -> ok.
answer(none, _Answer) -> ok;
answer(From, Answer) -> gen_server:reply(From, Answer).

%% @doc How many there are.
-spec size(pending()) -> non_neg_integer().
size(#pending{requests = Requests}) -> map_size(Requests).
