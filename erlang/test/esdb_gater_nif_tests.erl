-module(esdb_gater_nif_tests).

-include_lib("eunit/include/eunit.hrl").

-define(SECRET, <<"a secret for tests">>).

library_and_erlang_sign_alike_test_() ->
    only_with_library(
      fun() ->
          Ring = esdb_gater_nif:ring(?SECRET),
          esdb_gater_gen:holds(
            fun esdb_gater_gen:message/0,
            fun(Message) ->
                Now = 1700000000,
                Bytes = esdb_gater_canonical:bytes(Message#{signed_at => Now}),
                Expected = base64:encode(crypto:mac(hmac, sha256, ?SECRET, Bytes)),
                %% Whatever way the term came encoded, and on whatever scheduler.
                lists:all(
                  fun(Options) ->
                      Encoded = term_to_binary(Message, Options),
                      esdb_gater_nif:sign(Encoded, Ring, Now) =:= Expected andalso
                          esdb_gater_nif:sign_dirty(Encoded, Ring, Now) =:= Expected
                  end, [[], [{minor_version, 1}], [{minor_version, 2}], [deterministic]])
            end)
      end).

library_and_erlang_judge_alike_test_() ->
    only_with_library(
      fun() ->
          Sign = fun(Message) -> esdb_pubsub_security:sign(Message, ?SECRET) end,
          esdb_gater_gen:holds(
            fun() -> esdb_gater_gen:mutated(Sign) end,
            fun(Message) ->
                Native = esdb_pubsub_security:verify(Message, ?SECRET),
                Erlang = in_erlang(fun() -> esdb_pubsub_security:verify(Message, ?SECRET) end),
                Native =:= Erlang
            end)
      end).

what_one_signs_the_other_accepts_test_() ->
    only_with_library(
      fun() ->
          esdb_gater_gen:holds(
            fun esdb_gater_gen:message/0,
            fun(Message) ->
                Native = esdb_pubsub_security:sign(Message, ?SECRET),
                Erlang = in_erlang(fun() -> esdb_pubsub_security:sign(Message, ?SECRET) end),
                esdb_pubsub_security:verify(Erlang, ?SECRET) =:= ok andalso
                    in_erlang(fun() -> esdb_pubsub_security:verify(Native, ?SECRET) end) =:= ok
            end)
      end).

the_latin1_form_verifies_test_() ->
    only_with_library(
      fun() ->
          esdb_gater_gen:holds(
            fun esdb_gater_gen:message/0,
            fun(Message) ->
                Timed = Message#{signed_at => os:system_time(second)},
                Bytes = esdb_gater_canonical:bytes(Timed, latin1),
                Mac = base64:encode(crypto:mac(hmac, sha256, ?SECRET, Bytes)),
                Signed = Timed#{signature => Mac},
                esdb_pubsub_security:verify(Signed, ?SECRET) =:= ok andalso
                    in_erlang(fun() -> esdb_pubsub_security:verify(Signed, ?SECRET) end) =:= ok
            end)
      end).

bytes_that_are_no_message_do_no_harm_test_() ->
    only_with_library(
      fun() ->
          Ring = esdb_gater_nif:ring(?SECRET),
          Encoded = term_to_binary(#{a => [1, 2 | 3], b => #{c => <<1:3>>, 1.5 => self()},
                                     signature => binary:copy(<<"A">>, 44), signed_at => 1000}),
          fun() ->
              Cut = [binary:part(Encoded, 0, N) || N <- lists:seq(0, byte_size(Encoded) - 1)],
              Flipped = [flip(Encoded, At, Bit) || At <- lists:seq(0, byte_size(Encoded) - 1),
                                                   Bit <- lists:seq(0, 7)],
              [begin
                   Signature = esdb_gater_nif:sign(Bytes, Ring, 1),
                   ?assert(is_binary(Signature) orelse is_atom(Signature)),
                   ?assert(is_atom(esdb_gater_nif:verify(Bytes, Ring, 1000, 300)))
               end || Bytes <- Cut ++ Flipped],
              ?assertEqual(badarg, esdb_gater_nif:sign(term_to_binary(1), Ring, 1))
          end
      end).

wrong_arguments_raise_test_() ->
    only_with_library(
      fun() ->
          Ring = esdb_gater_nif:ring(?SECRET),
          Limiter = esdb_gater_nif:limiter(1, 1),
          [?_assertError(badarg, esdb_gater_nif:sign(not_binary, Ring, 1)),
           ?_assertError(badarg, esdb_gater_nif:sign(<<131, 106>>, Limiter, 1)),
           ?_assertError(badarg, esdb_gater_nif:sign(<<131, 106>>, make_ref(), 1)),
           ?_assertError(badarg, esdb_gater_nif:check(Ring, <<"topic">>)),
           ?_assertError(badarg, esdb_gater_nif:check(Limiter, topic))]
      end).

%%% Loading, each case in a node of its own.

the_library_is_found_test_() ->
    only_with_library(
      fun() ->
          [{"as the application",
            loading("erl_esdb_gater", with_library, "loaded")},
           {"as the application with its version",
            loading("erl_esdb_gater-9.9.9", with_library, "loaded")},
           {"beside the modules, under any name",
            loading("some where", with_library, "loaded")}]
      end).

without_a_loadable_library_erlang_does_it_test_() ->
    [{"there is none", loading("erl_esdb_gater", none, "not_found")},
     {"it is damaged", loading("erl_esdb_gater", damaged, "load_failed")}].

a_second_version_is_refused_and_the_first_stays_test_() ->
    only_with_library(
      fun() ->
          {timeout, 60,
           fun() ->
               Expression = "S = esdb_pubsub_security:sign(#{a => 1}, \"x\"),"
                   "R = code:load_file(esdb_gater_nif),"
                   "io:format(\"~0tp ~0tp ~0tp\", [R, esdb_gater_nif:status(),"
                   "esdb_pubsub_security:verify(S, \"x\")])",
               Output = run("erl_esdb_gater", with_library, Expression),
               %% A report of the refusal comes before or after.
               ?assertNotEqual({Output, nomatch},
                               {Output, string:find(Output, "{error,on_load_failure} loaded ok")})
           end}
      end).

%% A node with the modules in Name/ebin says why it has the library or has not, and signs.
loading(Name, Library, Expected) ->
    {timeout, 60,
     fun() ->
         Expression = "S = esdb_pubsub_security:sign(#{a => 1}, \"x\"),"
             "ok = esdb_pubsub_security:verify(S, \"x\"),"
             "true = esdb_gater_limit:check(esdb_gater_limit:new(1), <<\"t\">>),"
             "io:format(\"~0tp\", [esdb_gater_nif:status()])",
         Status = run(Name, Library, Expression),
         ?assertNotEqual({Status, nomatch}, {Status, string:find(Status, Expected)})
     end}.

run(Name, Library, Expression) ->
    Root = filename:join(temporary(), "nif " ++ integer_to_list(erlang:unique_integer([positive]))
                         ++ "-" ++ os:getpid()),
    Ebin = filename:join([Root, Name, "ebin"]),
    So = filename:join([Root, Name, "priv", "gater_nif.so"]),
    ok = filelib:ensure_dir(So),
    ok = filelib:ensure_dir(filename:join(Ebin, "x")),
    try
        [{ok, _} = file:copy(code:which(Module),
                             filename:join(Ebin, atom_to_list(Module) ++ ".beam"))
         || Module <- [esdb_gater_nif, esdb_gater_canonical, esdb_gater_limit, esdb_gater_config,
                       esdb_pubsub_security]],
        case Library of
            none -> ok;
            damaged -> ok = file:write_file(So, <<"not a library">>);
            with_library -> {ok, File} = esdb_gater_gen:library(), {ok, _} = file:copy(File, So)
        end,
        Erl = os:find_executable("erl"),
        Port = open_port({spawn_executable, Erl},
                         [{args, ["-noinput", "-pa", Ebin, "-eval", Expression ++ ", halt(0)."]},
                          {cd, Root}, exit_status, hide, stderr_to_stdout]),
        output(Port, [])
    after
        ok = file:del_dir_r(Root)
    end.

output(Port, Lines) ->
    receive
        {Port, {data, Data}} -> output(Port, [Lines, Data]);
        {Port, {exit_status, 0}} -> lists:flatten(Lines);
        {Port, {exit_status, Status}} -> error({exit_status, Status, lists:flatten(Lines)})
    after 50_000 ->
        error({no_end, lists:flatten(Lines)})
    end.

temporary() ->
    case os:getenv("TMPDIR") of
        false -> "/tmp";
        Dir -> Dir
    end.

flip(Bytes, At, Bit) ->
    <<Before:At/binary, Byte, After/binary>> = Bytes,
    <<Before/binary, (Byte bxor (1 bsl Bit)), After/binary>>.

only_with_library(Tests) ->
    {generator, fun() ->
                    case esdb_gater_gen:library() of
                        {ok, _} -> Tests();
                        none -> []
                    end
                end}.

%% As if the library were not there.
in_erlang(Fun) ->
    Status = persistent_term:get(esdb_gater_nif),
    persistent_term:put(esdb_gater_nif, {not_loaded, not_found}),
    try Fun() after persistent_term:put(esdb_gater_nif, Status) end.
