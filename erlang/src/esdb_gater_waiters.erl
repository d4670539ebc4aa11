%%% @private
%%% @doc Callers of the link that wait for a gateway, for the first copy of the registry, or, at
%%% the start of the application, until it is known whether there is one.
-module(esdb_gater_waiters).

-export([new/0, add/4, wake/2, give_up/1, expire/2]).

-export_type([waiters/0, what/0]).

-type what() :: copy | gateway | start.
-opaque waiters() :: #{reference() => {what(), gen_server:from()}}.

%% @doc Nobody waits.
-spec new() -> waiters().
new() -> #{}.

%% @doc One more waits. Unless woken before, the calling process is sent
%% `{expire_waiting, Ref}' after so many milliseconds, for {@link expire/2}.
-spec add(what(), Milliseconds :: non_neg_integer(), gen_server:from(), waiters()) ->
          waiters().
add(What, Milliseconds, From, Awaiting) ->
    Ref = make_ref(),
    _ = erlang:send_after(Milliseconds, self(), {expire_waiting, Ref}),
    Awaiting#{Ref => {What, From}}.

%% @doc There is a gateway: everybody is answered.
-spec wake(node(), waiters()) -> waiters().
wake(Gateway, Awaiting) ->
    maps:foreach(fun(_, {gateway, From}) -> gen_server:reply(From, {ok, Gateway});
                    (_, {_, From}) -> gen_server:reply(From, ok)
                 end, Awaiting),
    new().

%% @doc No gateway is within reach now: those who start the application need not wait for one.
-spec give_up(waiters()) -> waiters().
give_up(Awaiting) ->
    maps:filter(fun(_, {start, From}) -> gen_server:reply(From, {error, no_gateway}), false;
                   (_, _) -> true
                end, Awaiting).

%% @doc One has waited long enough.
-spec expire(reference(), waiters()) -> waiters().
expire(Ref, Awaiting) ->
    case maps:take(Ref, Awaiting) of
        {{_, From}, Rest} ->
            gen_server:reply(From, {error, no_gateway}),
            Rest;
        error ->
            Awaiting
    end.
