%% @doc Signing, verifying and rate checks with no gateway and no application started.
%%
%% `main/0' reads from the environment whether the library should be there (`EXPECT_NIF'), a
%% file to write signed messages to (`SIGNED_OUT') and one to read and verify (`SIGNED_IN').
-module(nif_only).

-export([main/0]).

-define(SECRET, <<"a secret of two BEAMs">>).

-spec main() -> no_return().
main() ->
    try run() of
        ok -> io:format("passed~n"), halt(0)
    catch
        Class:Reason:Stack ->
            io:format("failed: ~tp~n", [{Class, Reason, Stack}]),
            halt(1)
    end.

run() ->
    Expected = list_to_atom(os:getenv("EXPECT_NIF")),
    Expected = esdb_gater_nif:loaded(),
    false = lists:keymember(erl_esdb_gater, 1, application:which_applications()),
    Messages = messages(),
    Signed = [esdb_pubsub_security:sign(Message, ?SECRET) || Message <- Messages],
    [ok = esdb_pubsub_security:verify(S, ?SECRET) || S <- Signed],
    [{error, invalid_signature} = esdb_pubsub_security:verify(S#{more => 1}, ?SECRET) || S <- Signed],
    {error, badarg} = esdb_pubsub_security:sign(no_map, ?SECRET),
    {error, missing_signature} = esdb_pubsub_security:verify(#{}, ?SECRET),
    %% As OTP alone does it.
    [Mac = base64:encode(crypto:mac(hmac, sha256, ?SECRET,
         term_to_binary(lists:sort(maps:to_list(maps:remove(signature, S))),
                        [deterministic, {minor_version, 2}])))
     || S = #{signature := Mac} <- Signed],
    ok = file:write_file(os:getenv("SIGNED_OUT"), term_to_binary(Signed)),
    case os:getenv("SIGNED_IN") of
        false -> ok;
        File ->
            {ok, Others} = file:read_file(File),
            [ok = esdb_pubsub_security:verify(S, ?SECRET) || S <- binary_to_term(Others)]
    end,
    ok = esdb_pubsub_security:set_secret(?SECRET),
    [ok = esdb_pubsub_security:verify(S) || S <- Signed],
    Taken = [esdb_pubsub_security:check_rate(esdb_channel_diagnostics, <<"topic">>)
             || _ <- lists:seq(1, 300)],
    ok = hd(Taken),
    [ok, {error, rate_limited}] = lists:usort(Taken),
    ok.

messages() ->
    [#{},
     #{type => alert, level => critical},
     #{<<"text">> => "list", 1 => 1.5, {a, b} => [c, <<0:7>>], big => 1 bsl 100, neg => -5},
     #{nested => maps:from_list([{list_to_atom("key_" ++ integer_to_list(I)), I}
                                 || I <- lists:seq(1, 40)])},
     #{umlaut => 'größe', large => <<0:(64 * 1024 * 8)>>}].
